"""The memory of a step on a GPU that comes and goes: a chunk's logits, a layer's backward pass, gathered keys.

What a forward pass keeps for its backward pass is in use at three possible peaks of a step: while the head holds a
chunk's logits, while the last layer goes backward, and while the layer before it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from woodshed.engine.trainer.attention.decoder import Checkpointed
from woodshed.engine.trainer.attention.path_plan import MAX_KEYS
from woodshed.engine.trainer.attention.tree import TreePlan
from woodshed.engine.trainer.forward import (
    ALONG_A_TREE,
    ForwardMode,
    MicroBatch,
    TrainingRow,
    forward_logprobs,
    kernels_of,
    micro_batches,
)
from woodshed.engine.trainer.forward_mode import probe_rows
from woodshed.loss.head import head_bytes

_SHORT, _LONG, _FEW = 512, 1024, 2
"""Positions of the measured rows, and how many of them predict a token where it should be few."""

PeakOf = Callable[[Callable[[], object]], float]
"""Runs a function and returns the most bytes in use meanwhile beyond those before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What of a micro-batch takes memory."""

    positions: int
    pairs: int
    """(position, temperature) pairs that predict a token."""
    gathered: int
    """Keys that a layer gathers at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transients:
    """Bytes in use at a step's peak beyond what is kept for the backward pass."""

    fixed: float
    """Whatever the size: the LoRA's gradients, workspaces of libraries."""
    per_token: dict[Checkpointed, float]
    """While a layer's backward pass runs, by what runs twice."""
    per_query: float
    """The same in the last layer, which never runs twice and has only queries that predict a token."""
    per_gathered_key: float
    per_pair: float | None
    """For each predicting pair while its logits are held, in a mode that holds all of them; None: in chunks."""
    vocabulary: int
    dtype: torch.dtype
    device: str
    head_logits: int | None = None
    """Logits that the head holds at a time, where they were measured."""

    def peak(self, kept: tuple[float, float], sizes: Sizes, checkpointed: Checkpointed) -> float:
        """Return the bytes in use at a step's peak.

        Args:
            kept: Bytes kept for the backward pass for each position, and for each predicting pair in the last layer.
            sizes: What the micro-batch holds.
            checkpointed: What runs twice.
        """
        positions, pairs = kept[0] * sizes.positions, kept[1] * sizes.pairs
        gathered = self.per_gathered_key * sizes.gathered
        layer = self.per_token[checkpointed] * sizes.positions
        last = self.per_query * sizes.pairs
        return self.fixed + positions + max(
            pairs + self._head(sizes.pairs),
            # When the keys are gathered again, a layer's MLP is done: about half of what a layer holds.
            pairs + max(last, last / 2 + gathered),
            # By then what the last layer kept is gone.
            max(layer, layer / 2 + gathered),
        )  # fmt: skip

    def max_positions(self, available: float, kept: tuple[float, float], checkpointed: Checkpointed) -> int:
        """Return how many positions fit into `available` bytes if each predicts a token and the most keys are gathered.

        `kept` as in `peak`.
        """
        low, high = 0, 2**24
        while low < high:
            middle = (low + high + 1) // 2
            sizes = Sizes(positions=middle, pairs=middle, gathered=MAX_KEYS)
            low, high = (middle, high) if self.peak(kept, sizes, checkpointed) <= available else (low, middle - 1)
        return low

    def _head(self, pairs: int) -> float:
        if self.per_pair is None:
            return head_bytes(pairs, self.vocabulary, self.dtype, self.device, chunk_logits=self.head_logits)
        return self.per_pair * pairs


def transients(
    model: Any,
    vocabulary: int,
    mode: ForwardMode,
    device: torch.device,
    kept: dict[Checkpointed, float],
    per_pair: float,
    peak_of: PeakOf,
) -> Transients:
    """Measure what comes and goes in a forward and backward pass of this model.

    Args:
        model: A PEFT model around a causal language model.
        vocabulary: Size of its vocabulary.
        mode: How rows go through it.
        device: Where it lies.
        kept: Bytes kept for the backward pass for each position, by what runs twice.
        per_pair: The same for each predicting pair.
        peak_of: How the peak is measured.
    """

    def peak(tokens: int, predicting: int, checkpointed: Checkpointed = False) -> float:
        return _peak(model, probe_batch(vocabulary, mode, device, tokens, predicting), mode, checkpointed, peak_of)

    short = {way: peak(_SHORT, _FEW, way) for way in kept}
    layer = {way: max(0.0, (peak(_LONG, _FEW, way) - short[way]) / (_LONG - _SHORT) - kept[way]) for way in kept}
    config = model.config
    layers = max(1, int(getattr(config, "num_hidden_layers", 1)))
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 1)
    size = getattr(config, "head_dim", None) or config.hidden_size // getattr(config, "num_attention_heads", 1)
    dtype = next(model.parameters()).dtype
    return Transients(
        fixed=max(0.0, short[False] - _SHORT * (kept[False] + layer[False]) - _FEW * per_pair),
        per_token=layer,
        per_query=max(layer[False], layer.get(True, 0.0) - kept[False] / layers),
        # Keys and values, their gradients, and in half precision one of these in fp32 while it is summed.
        per_gathered_key=heads * size * (4 * dtype.itemsize + 4 * (dtype.itemsize < 4)) if mode == "tree" else 0.0,
        per_pair=None
        if mode in ALONG_A_TREE
        else max(0.0, (peak(_SHORT, _SHORT) - short[False]) / (_SHORT - _FEW) - per_pair),
        vocabulary=vocabulary,
        dtype=dtype,
        device=device.type,
        head_logits=kernels_of(model).head_logits,
    )


def _peak(model: Any, batch: MicroBatch, mode: ForwardMode, checkpointed: Checkpointed, peak_of: PeakOf) -> float:
    trained = [p for p in model.parameters() if p.requires_grad]

    def both_passes() -> object:
        loss = forward_logprobs(model, batch, mode, checkpointed=checkpointed).logprobs_M.sum()
        return torch.autograd.grad(loss, trained, allow_unused=True)

    both_passes()  # kernels are compiled and workspaces made that stay
    return peak_of(both_passes)


def peak_on_gpu(run: Callable[[], object]) -> float:
    """Return the most bytes in use on the GPU while a function runs, beyond those before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before)


def gathered_keys(plan: TreePlan | None) -> int:
    """Return how many keys a layer of this plan gathers at once."""
    if plan is None or plan.kernel != "paths":
        return 0
    return max((call.gathered for call in plan.path_calls if len(call.keys) > 1), default=0)


def probe_batch(vocabulary: int, mode: ForwardMode, device: torch.device, tokens: int, predicting: int) -> MicroBatch:
    """Return a micro-batch of one random row, trained at its last tokens, which `predicting` positions predict."""
    (probe,) = probe_rows(vocabulary, shared=tokens, own=(0,))
    trained = (False,) * (tokens - predicting + 1) + (True,) * (predicting - 1)
    row = TrainingRow(row=replace(probe.row, trained=trained), rollout=0, advantages=probe.advantages)
    (batch,) = micro_batches([row], token_budget=tokens, mode=mode, device=device)
    return batch
