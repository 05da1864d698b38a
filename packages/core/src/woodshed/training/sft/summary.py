"""The figures of a finished SFT."""

from __future__ import annotations

from woodshed.types import Record


class SftSummary(Record):
    """The figures of one SFT."""

    conversations: int
    held_out: int
    tokens: int
    """Trained tokens per epoch."""
    steps: int
    loss_first: float
    """Mean negative log-likelihood in nats per token over the first epoch, each step before its update."""
    loss_last: float
    held_out_before: float | None = None
    held_out_after: float | None = None
    seconds: float
    model: str
    adapter: str
    """Folder of the LoRA; on the engine's machine if that is a different one."""
    warnings: tuple[str, ...] = ()
    """What the trainer warned of, such as a slower way through the model than the best."""
