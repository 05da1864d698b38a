"""What each named loss sets, with the paper it comes from. Imports no torch, so the client can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Normalizer = Literal["rollout_mean", "constant_length", "batch_tokens"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossPreset:
    """One published variant of GRPO. All have the ratio of every single token and no KL term."""

    paper: str
    ratio_level: Literal["token"] = "token"
    clip_low: float
    """Ratios below 1 - `clip_low` give no gradient where the advantage is negative."""
    clip_high: float
    """Ratios above 1 + `clip_high` give no gradient where the advantage is positive."""
    normalizer: Normalizer
    """What the sum over tokens is divided by; see `loss.grpo.token_weights`."""
    paper_advantage_scale: Literal["none", "std"]
    """How the paper scales advantages. Advantages are made before the loss, by `rewards.advantage`."""


PRESETS: dict[str, LossPreset] = {
    "grpo": LossPreset(
        paper="https://arxiv.org/abs/2402.03300",
        clip_low=0.2,
        clip_high=0.2,
        normalizer="rollout_mean",
        paper_advantage_scale="std",
    ),
    "dr_grpo": LossPreset(
        paper="https://arxiv.org/abs/2503.20783",
        clip_low=0.2,
        clip_high=0.2,
        normalizer="constant_length",
        paper_advantage_scale="none",
    ),
    "dapo": LossPreset(
        paper="https://arxiv.org/abs/2503.14476",
        clip_low=0.2,
        clip_high=0.28,
        normalizer="batch_tokens",
        paper_advantage_scale="std",
    ),
}
"""Preset name → what it sets."""
