"""Scores of one group → advantages, relative to the group's own mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

AdvantageScale = Literal["none", "std"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Advantages:
    """What a group's scores say about each rollout, or why they say nothing."""

    values: dict[str, float] = field(default_factory=dict)
    """Rollout id → advantage; the values sum to zero. Empty where the group is skipped."""
    quarantined: dict[str, str] = field(default_factory=dict)
    """Rollout id → why it has no advantage. It gives no gradient; it is not a rollout with reward 0."""
    skipped: str | None = None
    """Why the whole group gives no gradient; None where it does."""


def group_advantages(
    scores: Mapping[str, float | None], *, tolerance: float = 1e-6, scale: AdvantageScale = "none"
) -> Advantages:
    """Return each rollout's score less the mean of the group's usable scores.

    A score that is None, NaN or infinite quarantines its rollout: it neither gets an advantage nor moves the mean.
    A group is skipped where fewer than two scores are usable, and where all are equal within `tolerance`: float noise
    in equal scores would otherwise become a preference.

    Args:
        scores: Rollout id → score.
        tolerance: Largest spread (maximum less minimum) that still counts as equal.
        scale: `std` also divides by the sample standard deviation, as the GRPO paper does. It makes a group that
            agrees almost entirely weigh as much as one that is divided, so `none` is the default.

    Example:
        `group_advantages({"a": 1.0, "b": 0.0, "c": None})` has values `{"a": 0.5, "b": -0.5}` and quarantines `c`.
    """
    quarantined = {i: why for i, score in scores.items() if (why := _unusable(score)) is not None}
    usable = {i: float(score) for i, score in scores.items() if score is not None and i not in quarantined}
    if len(usable) < 2:
        return Advantages(
            quarantined=quarantined, skipped=f"{len(usable)} of {len(scores)} scores usable, 2 are needed"
        )
    spread = max(usable.values()) - min(usable.values())
    if spread <= tolerance:
        return Advantages(quarantined=quarantined, skipped=f"all {len(usable)} scores equal within {tolerance:g}")
    mean = statistics.fmean(usable.values())
    unit = statistics.stdev(usable.values()) if scale == "std" else 1.0
    return Advantages(values={i: (score - mean) / unit for i, score in usable.items()}, quarantined=quarantined)


def _unusable(score: float | None) -> str | None:
    if score is None:
        return "no score"
    return None if math.isfinite(score) else f"score is {score}"
