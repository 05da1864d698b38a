"""The held-out losses of an SFT, by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from woodshed.training.run.store import RunStore

BEFORE = "held out before"
"""Name of the fact that keeps the loss before the first step."""


def after_epoch(epoch: int) -> str:
    """Return the name of the fact that keeps the loss after an epoch, counted from 0."""
    return f"held out epoch {epoch}"


def held_out_losses(store: RunStore, history: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return optimizer steps taken → held-out loss in nats per token, of those that were measured."""
    steps_after = {row["epoch"]: step for step, row in enumerate(history, 1) if "epoch" in row}
    named = {0: BEFORE, **{step: after_epoch(epoch) for epoch, step in steps_after.items()}}
    return {step: loss for step, name in named.items() if (loss := store.fact(name)) is not None}
