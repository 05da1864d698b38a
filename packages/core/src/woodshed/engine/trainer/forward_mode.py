"""Which forward mode a given model supports: measured on a few random rows, not assumed from the model's name.

In half precision two right passes differ, the more so the deeper the model. So each mode is compared with the model's
own pass in fp32, and it may be about as far from that as the model's own pass in half precision is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from woodshed.engine.trainer.forward import ForwardMode, TrainingRow, forward_logprobs, micro_batches
from woodshed.engine.trainer.upcast import upcast
from woodshed.tokens import Row

TOKEN_BUDGET: dict[ForwardMode, int] = {"tree": 16_384, "flex": 16_384, "dense": 1024, "rows": 4096}
"""Most positions of one micro-batch. With a dense mask, a longer pack soon costs more than it saves. Along a tree
longer is always better, up to the memory."""
_UNSUPPORTED_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that depend on the length of the whole sequence, which a pack does not have."""
_NOISE = 0.02
"""Standard deviation of the noise on the LoRA's weights: a new LoRA changes nothing, so a probe could not see it."""
_PROBE = {"cpu": (16, (8, 6, 10)), "cuda": (128, (40, 24, 56))}
"""Tokens shared by the probe's rows, and each row's own. On a GPU there are more than 128 positions: below that
FlexAttention takes other kernels than in a step."""
_TOLERANCE = {True: 1e-4, False: 0.1}
"""Allowed difference in nats from the model's own pass: in fp32, and in half precision where fp32 cannot be run."""
_WITH_BACKWARD = ("cuda",)
"""Devices on which the backward pass is tried, too: it has kernels of its own that may be missing."""
_RMS_FACTOR, _MAX_FACTOR, _ROUNDING = 2.0, 4.0, 1e-3
"""How many times as far from fp32 as the model's own half-precision pass another may be, on average and at worst, and
what it may be in any case, in nats."""
CANNOT_RUN = (AttributeError, TypeError, ValueError, RuntimeError, ImportError, LookupError, AssertionError)
"""What a mode raises on a model, a torch or a GPU that it was not made for; out of memory and failed compilation are
RuntimeErrors."""
_COST: dict[ForwardMode, str] = {
    "tree": "",
    "flex": "a block mask is made for each pack, and FlexAttention is compiled in the first step",
    "dense": "attention computes every pair of positions, and a micro-batch holds at most {budget:,} of them instead "
    "of {best:,}",
    "rows": "every rollout's own tokens are computed instead of the shared tree, in micro-batches of at most "
    "{budget:,} positions instead of {best:,}; the first step says how many times the tokens that is",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftMode:
    """A faster mode that was not taken."""

    mode: ForwardMode
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardChoice:
    """The forward mode of a model, and why it is no faster one."""

    mode: ForwardMode
    left: tuple[LeftMode, ...] = ()

    def warning(self) -> str | None:
        """Return what was left, why, and what it costs; None if nothing was left."""
        if not self.left:
            return None
        reasons = "; ".join(
            f"{' and '.join(repr(left.mode) for left in same)} cannot be used: {reason}"
            for reason, same in groupby(self.left, key=lambda left: left.reason)
        )
        cost = _COST[self.mode].format(budget=TOKEN_BUDGET[self.mode], best=TOKEN_BUDGET["tree"])
        return f"the trainer's forward mode is {self.mode!r}, not the fastest one ({reasons}); {cost}"


def choose_forward_mode(model: Any, vocabulary: int, device: torch.device) -> ForwardChoice:
    """Return the fastest mode in which the log-probabilities equal those of the model's own forward pass.

    Models with sliding windows, recurrent layers or a mask of their own cannot attend along a trie: `rows`. A decoder
    outside the Llama family, or with an output head that is more than a matrix, can do so with a mask: `dense`.
    """
    modes: tuple[ForwardMode, ...] = ("tree", "dense") if device.type == "cpu" else ("tree", "flex", "dense")
    if (reason := _why_not_packed(model.config)) is not None:
        return ForwardChoice(mode="rows", left=tuple(LeftMode(mode=mode, reason=reason) for mode in modes))
    left: list[LeftMode] = []
    with torch.no_grad(), _noisy(model):
        probe = _Probe(model, vocabulary, device)
        for mode in modes:
            if (reason := probe.why_not(mode)) is None:
                return ForwardChoice(mode=mode, left=tuple(left))
            left.append(LeftMode(mode=mode, reason=reason))
    return ForwardChoice(mode="rows", left=tuple(left))


def _why_not_packed(config: Any) -> str | None:
    """Return what of a model's configuration cannot attend along a trie."""
    if (window := getattr(config, "sliding_window", None)) is not None:
        return f"the model has a sliding window of {window} tokens"
    if other := {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}:
        return f"the model has layers of the types {sorted(other)}"
    if (rope := (getattr(config, "rope_parameters", None) or {}).get("rope_type")) in _UNSUPPORTED_ROPE:
        return f"the model's rotary embedding {rope!r} depends on the length of the whole sequence"
    return None


class _Probe:
    """A few random rows, and what the model's own pass makes of them."""

    def __init__(self, model: Any, vocabulary: int, device: torch.device) -> None:
        self._model, self._vocabulary, self._device = model, vocabulary, device
        self._plain = _probed(model, vocabulary, "rows", device)
        self._is_full = not any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters())
        self._exact, self._why_inexact = (self._plain, "") if self._is_full else self._in_fp32()

    def why_not(self, mode: ForwardMode) -> str | None:
        """Return why a mode cannot be taken: its error's first line, or how far it is off; None if it can."""
        try:
            found = _probed(self._model, self._vocabulary, mode, self._device)
            if self._device.type in _WITH_BACKWARD:
                _check_backward(self._model, self._vocabulary, mode, self._device)
        except CANNOT_RUN as error:
            return first_line(error)
        if self._is_full or self._exact is None:
            return self._why_off(found, self._plain, _TOLERANCE[self._is_full])
        rms, worst = _distances(found, self._exact)
        own_rms, own_worst = _distances(self._plain, self._exact)
        if rms <= _RMS_FACTOR * own_rms + _ROUNDING and worst <= _MAX_FACTOR * own_worst + _ROUNDING:
            return None
        return (
            f"its log-probabilities are {rms:.2g} nats from those in fp32 (at most {worst:.2g}), those of the model's "
            f"own pass {own_rms:.2g} (at most {own_worst:.2g})"
        )

    def _why_off(self, found: Sequence[float], expected: Sequence[float], tolerance: float) -> str | None:
        _, worst = _distances(found, expected)
        if worst < tolerance:
            return None
        return (
            f"its log-probabilities are up to {worst:.2g} nats from those of the model's own pass, "
            f"{tolerance:g} are allowed{self._why_inexact}"
        )

    def _in_fp32(self) -> tuple[list[float] | None, str]:
        try:
            with upcast(self._model):
                return _probed(self._model, self._vocabulary, "rows", self._device), ""
        except CANNOT_RUN as error:  # such as a loader's own kernels, or no room for a layer in fp32
            return None, f", as the model cannot be run in fp32 ({first_line(error)})"


def first_line(error: Exception) -> str:
    """Return an error's type and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _distances(found: Sequence[float], expected: Sequence[float]) -> tuple[float, float]:
    """Return the root mean square and the largest of the differences; infinite where a value is not finite."""
    off = (torch.tensor(found) - torch.tensor(expected)).abs().nan_to_num(nan=torch.inf)
    return off.square().mean().sqrt().item(), off.max().item()


def _probed(model: Any, vocabulary: int, mode: ForwardMode, device: torch.device) -> list[float]:
    """Return the log-probabilities of three rows with a common prefix."""
    shared, own = _PROBE[device.type]
    rows = probe_rows(vocabulary, shared=shared, own=own)
    by_rollout: list[tuple[int, float]] = []
    for batch in micro_batches(rows, token_budget=10_000, mode=mode, device=device):
        logprobs = forward_logprobs(model, batch, mode).logprobs_M.tolist()
        by_rollout += zip(batch.rollout_of_M.tolist(), logprobs, strict=True)
    return [logprob for _, logprob in sorted(by_rollout, key=lambda pair: pair[0])]


def _check_backward(model: Any, vocabulary: int, mode: ForwardMode, device: torch.device) -> None:
    """Raise an error if the mode's backward pass does not run, or gives numbers that are not finite."""
    shared, own = _PROBE[device.type]
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        for batch in micro_batches(
            probe_rows(vocabulary, shared=shared, own=own), token_budget=10_000, mode=mode, device=device
        ):
            loss = forward_logprobs(model, batch, mode).logprobs_M.sum()
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
            if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
                raise ValueError("the gradient is not finite")


def probe_rows(vocabulary: int, *, shared: int, own: tuple[int, ...]) -> list[TrainingRow]:
    """Return random rows that share a prefix and are trained at every token but the first."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(0, vocabulary, (shared + sum(own),), generator=generator).tolist()
    starts = [shared + sum(own[:k]) for k in range(len(own))]
    return [_row(draw[:shared] + draw[a : a + n], k) for k, (a, n) in enumerate(zip(starts, own, strict=True))]


def _row(ids: list[int], number: int) -> TrainingRow:
    count = len(ids) - 1
    row = Row(
        token_ids=tuple(ids),
        trained=(False,) + (True,) * count,
        logprobs=(None,) + (0.0,) * count,
        weight_versions=(None,) + (0,) * count,
        temperatures=(None,) + (1.0,) * count,
        call_ids=(None,) + ("probe",) * count,
    )
    return TrainingRow(row=row, rollout=number, advantages=(0.0,) * len(ids))


@contextmanager
def _noisy(model: Any) -> Iterator[None]:
    """Add noise to the trained parameters until the block ends."""
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in trained:
            noise = torch.randn(parameter.shape, generator=generator) * _NOISE
            parameter.data.add_(noise.to(parameter.device, parameter.dtype))
        yield
    finally:
        for parameter, kept in zip(trained, before, strict=True):
            parameter.data.copy_(kept)
