"""The settings of supervised fine-tuning."""

from __future__ import annotations

from pydantic import Field

from woodshed.types import OptimizerSettings, Settings


class SftConfig(Settings):
    """The settings of supervised fine-tuning (SFT)."""

    epochs: int = Field(default=3, ge=1)
    """How many times every conversation is trained."""
    batch_size: int = Field(default=16, ge=1)
    """Conversations per optimizer step."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of scenarios (of lines, for a file) whose loss is measured and never trained."""
    optimizer: OptimizerSettings = OptimizerSettings()
    seed: int = 0
