"""The settings of a warm-up."""

from __future__ import annotations

from pydantic import Field

from woodshed.training.config import _Settings
from woodshed.types import OptimizerSettings


class SftConfig(_Settings):
    """The numbers of a warm-up."""

    epochs: int = Field(default=3, ge=1)
    """Times that every conversation is learnt."""
    batch_size: int = Field(default=16, ge=1)
    """Conversations of one optimizer step."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of the scenarios (of a file: of its lines) whose loss is measured and never trained."""
    optimizer: OptimizerSettings = OptimizerSettings()
    seed: int = 0
