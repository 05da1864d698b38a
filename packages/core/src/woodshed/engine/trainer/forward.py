"""Packs of rows → the model's log-probability of every trained token, with gradient.

Shapes: B sequences, N positions, M trained tokens, P distinct (position, temperature) pairs that predict them,
V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from woodshed.engine.trainer.attention.decoder import Checkpointed, head_weight, predicting_states
from woodshed.engine.trainer.attention.kernels import PLAIN, compiled
from woodshed.engine.trainer.attention.tree import Kernel, TreePlan
from woodshed.loss.head import token_logprobs
from woodshed.tokens import Pack, Row, pack_rows

ForwardMode = Literal["tree", "flex", "dense", "rows"]
"""How rows go through the model. `tree`: shared prefixes once, with flash attention along the trie. `flex`: the same by
FlexAttention, on a GPU. `dense`: shared prefixes once, with a mask over every pair of positions. `rows`: each row on
its own, padded."""
ALONG_A_TREE: tuple[ForwardMode, ...] = ("tree", "flex")
"""Modes that run woodshed's own decoder."""


_KERNELS = "woodshed_kernels"
"""Attribute of a model along whose tree rows go: how its layers and its head are computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """How a model's layers and head are computed along a tree; the same numbers, but for rounding."""

    layer: Literal["plain", "compile"] = "plain"
    """Whether what lies between a layer's matrix products is compiled into one kernel each."""
    head_logits: int | None = None
    """Most logits that the head holds at a time; None for the device's usual number."""


def use_kernels(model: Any, kernels: Kernels) -> None:
    """Compute a model's layers and head in this way from now on."""
    setattr(model, _KERNELS, kernels)


def kernels_of(model: Any) -> Kernels:
    """Return how a model's layers and head are computed."""
    found: Kernels = getattr(model, _KERNELS, Kernels())
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """The rows that go through the model together."""

    input_ids_BN: Tensor
    position_ids_BN: Tensor
    plan: TreePlan | None
    """Which positions attend to which; None for plain causal rows, padded on the right."""
    columns: Tensor
    """Positions at which logits are needed, in any of the B sequences."""
    logit_row_P: Tensor
    """Index of each pair's row in the logits at B x `columns`, flattened."""
    temperature_P: Tensor
    """Temperature of each pair, by which its logits are divided."""
    pair_of_M: Tensor
    """Index of the pair that predicts each trained token."""
    token_M: Tensor
    old_logprobs_M: Tensor
    rollout_of_M: Tensor
    advantages_M: Tensor
    version_M: Tensor
    """Version of the weights that sampled each trained token."""
    calls_M: tuple[str, ...]
    """Id of the call that sampled each trained token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """A micro-batch's log-probabilities and entropies in nats and fp32, at each token's sampling temperature."""

    logprobs_M: Tensor
    entropies_M: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """A row with the advantages of its trained tokens."""

    row: Row
    rollout: int
    """Index of the row's rollout in the batch."""
    advantages: Sequence[float]
    """Advantage of each position of the row; only those of trained tokens are read."""


def micro_batches(
    rows: Sequence[TrainingRow], *, token_budget: int, mode: ForwardMode, device: torch.device
) -> list[MicroBatch]:
    """Return micro-batches that together hold every row once, of at most about `token_budget` positions each.

    Args:
        rows: Rows of any rollouts.
        token_budget: Positions of a micro-batch, padding included; a longer row gets a micro-batch of its own.
        mode: What `choose_forward_mode` returned. In `rows`, rows of similar length are padded to one length.
        device: Device of the tensors.
    """
    ids = [row.row.token_ids for row in rows]
    packs = pack_rows(ids, token_budget=token_budget, share=mode != "rows")
    parts = _by_length(packs, token_budget) if mode == "rows" else [(pack,) for pack in packs]
    return [_micro_batch(part, rows, mode, device) for part in parts]


def forward_logprobs(
    model: Any, batch: MicroBatch, mode: ForwardMode, *, entropy: bool = False, checkpointed: Checkpointed = False
) -> TokenLogprobs:
    """Return the log-probabilities (M) of the micro-batch's trained tokens, with gradient to the LoRA.

    Args:
        model: A PEFT model around a causal language model.
        batch: What `micro_batches` made for the same `mode`.
        mode: How the rows go through the model.
        entropy: Whether to return the entropies (M) too.
        checkpointed: Whether to keep only each layer's input, and its attention if `selective`, and run it again in the
            backward pass (along a tree only).
    """
    if mode in ALONG_A_TREE:
        return _forward_tree(model, batch, entropy=entropy, checkpointed=checkpointed)
    mask_11NN = None if batch.plan is None or len(batch.plan.segments) < 2 else batch.plan.mask_QN[None, None]
    logits = model(
        input_ids=batch.input_ids_BN,
        position_ids=batch.position_ids_BN,
        attention_mask=mask_11NN,
        logits_to_keep=batch.columns,
        use_cache=False,
    ).logits
    if logits.shape[1] != len(batch.columns):  # Unsloth's forward pass returns those of all positions
        logits = logits[:, batch.columns]
    logits = logits.flatten(0, 1)
    logits_PV = _pick_rows(logits, batch.logit_row_P).float() / batch.temperature_P[:, None]
    log_sum_P = logits_PV.logsumexp(-1)
    entropies_M = None
    if entropy:
        entropies_M = (log_sum_P - torch.linalg.vecdot(logits_PV.softmax(-1), logits_PV))[batch.pair_of_M]
    logprobs_M = logits_PV[batch.pair_of_M, batch.token_M] - log_sum_P[batch.pair_of_M]
    return TokenLogprobs(logprobs_M=logprobs_M, entropies_M=entropies_M)


def _forward_tree(model: Any, batch: MicroBatch, *, entropy: bool, checkpointed: Checkpointed) -> TokenLogprobs:
    assert batch.plan is not None, "a micro-batch of padded rows has no tree"
    last = batch.plan.only(batch.columns.tolist())
    kernels = kernels_of(model)
    states = predicting_states(
        model, batch.input_ids_BN[0], batch.position_ids_BN[0], batch.plan, last, checkpointed=checkpointed,
        by=compiled() if kernels.layer == "compile" else PLAIN,
    )  # fmt: skip
    logprobs_M, entropy_P = token_logprobs(
        _pick_rows(states, batch.logit_row_P), head_weight(model), batch.temperature_P, batch.pair_of_M, batch.token_M,
        entropy=entropy, chunk_logits=kernels.head_logits,
    )  # fmt: skip
    return TokenLogprobs(logprobs_M=logprobs_M, entropies_M=None if entropy_P is None else entropy_P[batch.pair_of_M])


def _pick_rows(states: Tensor, logit_row_P: Tensor) -> Tensor:
    """Return the pairs' rows, without a copy where that is every row in order."""
    every = torch.arange(len(states), device=states.device)
    if len(logit_row_P) == len(states) and bool((logit_row_P == every).all()):
        return states
    return states[logit_row_P]


def _by_length(packs: Sequence[Pack], token_budget: int) -> list[tuple[Pack, ...]]:
    """Group packs of one row each by similar length."""
    parts: list[list[Pack]] = []
    for pack in sorted(packs, key=lambda p: len(p.token_ids)):
        if parts and (len(parts[-1]) + 1) * len(pack.token_ids) <= token_budget:
            parts[-1].append(pack)
        else:
            parts.append([pack])
    return [tuple(part) for part in parts]


def _plan(pack: Pack, mode: ForwardMode, device: torch.device) -> TreePlan:
    kernel: Kernel = "flex" if mode == "flex" else "tiles" if device.type == "cpu" else "paths"
    return TreePlan(segments=pack.segments(), device=device, kernel=kernel)


def _micro_batch(
    packs: Sequence[Pack], rows: Sequence[TrainingRow], mode: ForwardMode, device: torch.device
) -> MicroBatch:
    width = max(len(pack.token_ids) for pack in packs)
    # One entry per trained token, which the position before it on its row's path predicts.
    targets = [
        (sequence, path[k - 1], training_row.row.temperatures[k], k, training_row)
        for sequence, pack in enumerate(packs)
        for index, path in zip(pack.rows, pack.paths, strict=True)
        for training_row in (rows[index],)
        for k, is_trained in enumerate(training_row.row.trained)
        if is_trained
    ]
    columns = sorted({column for _, column, *_ in targets})
    index_of_column = {column: k for k, column in enumerate(columns)}
    pair_by_token = [
        (sequence * len(columns) + index_of_column[column], temperature)
        for sequence, column, temperature, *_ in targets
    ]
    pairs = sorted(set(pair_by_token))
    index_of_pair = {pair: k for k, pair in enumerate(pairs)}

    def tensor(values: Sequence[Any], dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return MicroBatch(
        input_ids_BN=tensor([pack.token_ids + (0,) * (width - len(pack.token_ids)) for pack in packs]),
        position_ids_BN=tensor([pack.depths + (0,) * (width - len(pack.depths)) for pack in packs]),
        plan=None if mode == "rows" else _plan(packs[0], mode, device),
        columns=tensor(columns),
        logit_row_P=tensor([logit_row for logit_row, _ in pairs]),
        temperature_P=tensor([temperature for _, temperature in pairs], torch.float32),
        pair_of_M=tensor([index_of_pair[pair] for pair in pair_by_token]),
        token_M=tensor([training_row.row.token_ids[k] for *_, k, training_row in targets]),
        old_logprobs_M=tensor([training_row.row.logprobs[k] for *_, k, training_row in targets], torch.float32),
        rollout_of_M=tensor([training_row.rollout for *_, training_row in targets]),
        advantages_M=tensor([training_row.advantages[k] for *_, k, training_row in targets], torch.float32),
        version_M=tensor([training_row.row.weight_versions[k] for *_, k, training_row in targets]),
        calls_M=tuple(training_row.row.call_ids[k] or "" for *_, k, training_row in targets),
    )
