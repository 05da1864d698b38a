"""The figures of a finished warm-up."""

from __future__ import annotations

from woodshed.types import Record


class SftSummary(Record):
    """The figures of one warm-up."""

    conversations: int
    held_out: int
    tokens: int
    """Tokens that were learnt, in one epoch."""
    steps: int
    loss_first: float
    """Mean negative log-likelihood of a token in nats, over the first epoch; each step's before it is taken."""
    loss_last: float
    held_out_before: float | None = None
    held_out_after: float | None = None
    seconds: float
    model: str
    adapter: str
    """Folder of the LoRA; on the engine's machine, where that is another one."""
