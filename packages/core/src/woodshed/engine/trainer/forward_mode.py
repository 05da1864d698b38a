"""Which forward mode a given model supports: measured on a few random rows, not assumed from the model's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from woodshed.engine.trainer.forward import ForwardMode, TrainingRow, forward_logprobs, micro_batches
from woodshed.tokens import Row

_UNSUPPORTED_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that depend on the length of the whole sequence, which a pack does not have."""
_NOISE = 0.02
"""Standard deviation of the noise on the LoRA's weights: a new LoRA changes nothing, so a probe could not see it."""


def choose_forward_mode(model: Any, vocabulary: int, device: torch.device) -> ForwardMode:
    """Return the fastest mode in which the log-probabilities equal those of the model's own forward pass.

    Models with sliding windows, recurrent layers or a mask of their own cannot attend along a trie: `rows`. A decoder
    outside the Llama family, or with an output head that is more than a matrix, can do so with a mask: `dense`.
    """
    config = model.config
    if getattr(config, "sliding_window", None) is not None:
        return "rows"
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "rows"
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") in _UNSUPPORTED_ROPE:
        return "rows"
    with torch.no_grad(), _noisy(model):
        expected = _probed(model, vocabulary, "rows", device)
        tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.1
        for mode in ("tree", "dense"):
            try:
                actual = _probed(model, vocabulary, mode, device)
            except (AttributeError, TypeError, ValueError, RuntimeError):
                continue
            if all(abs(a - b) < tolerance for a, b in zip(actual, expected, strict=True)):
                return mode
    return "rows"


def _probed(model: Any, vocabulary: int, mode: ForwardMode, device: torch.device) -> list[float]:
    """Return the log-probabilities of three rows with a common prefix."""
    rows = probe_rows(vocabulary, shared=16, own=(8, 6, 10))
    by_rollout: list[tuple[int, float]] = []
    for batch in micro_batches(rows, token_budget=10_000, mode=mode, device=device):
        logprobs = forward_logprobs(model, batch, mode).logprobs_M.tolist()
        by_rollout += zip(batch.rollout_of_M.tolist(), logprobs, strict=True)
    return [logprob for _, logprob in sorted(by_rollout, key=lambda pair: pair[0])]


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
