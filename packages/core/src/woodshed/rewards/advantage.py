"""Scores → advantages, as in GRPO (arXiv:2402.03300): each score relative to its group's mean.

The score may be that of a whole rollout, or that of each agent role in it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from woodshed.errors import ConfigError

AdvantageScale = Literal["none", "std"]
BatchScale = Literal["none", "std", "batch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Advantages:
    """The advantages of one group's rollouts, or why the group has none."""

    values: dict[str, float] = field(default_factory=dict)
    """Rollout id → advantage. The values sum to zero; empty when the group is skipped."""
    quarantined: dict[str, str] = field(default_factory=dict)
    """Rollout id → why it has no advantage. It gives no gradient, which is not the same as reward 0."""
    skipped: str | None = None
    """Why the whole group gives no gradient; None when it does."""


def group_advantages(
    scores: Mapping[str, float | None], *, tolerance: float = 1e-6, scale: AdvantageScale = "none"
) -> Advantages:
    """Return each rollout's score minus the mean of the group's usable scores, as in GRPO (arXiv:2402.03300).

    A score that is None, NaN or infinite quarantines its rollout: it gets no advantage and does not enter the mean.
    A group is skipped when fewer than two scores are usable, or when all are equal within `tolerance`: otherwise
    floating-point noise in equal scores would become a preference.

    Args:
        scores: Rollout id → score.
        tolerance: Largest spread (maximum minus minimum) that still counts as equal.
        scale: `std` also divides by the sample standard deviation, as the GRPO paper does. A group with nearly equal
            scores then weighs as much as one with a wide spread, so `none` is the default.

    Example:
        `group_advantages({"a": 1.0, "b": 0.0, "c": None})` has values `{"a": 0.5, "b": -0.5}` and quarantines `c`.
    """
    quarantined = {i: reason for i, score in scores.items() if (reason := _why_unusable(score)) is not None}
    usable = {i: float(score) for i, score in scores.items() if score is not None and i not in quarantined}
    if len(usable) < 2:
        return Advantages(
            quarantined=quarantined, skipped=f"{len(usable)} of {len(scores)} scores usable, 2 are needed"
        )
    spread = max(usable.values()) - min(usable.values())
    if spread <= tolerance:
        return Advantages(quarantined=quarantined, skipped=f"all {len(usable)} scores equal within {tolerance:g}")
    mean = statistics.fmean(usable.values())
    divisor = statistics.stdev(usable.values()) if scale == "std" else 1.0
    return Advantages(values={i: (score - mean) / divisor for i, score in usable.items()}, quarantined=quarantined)


def batch_advantages(
    groups: Mapping[str, Mapping[str, float | None]], *, tolerance: float = 1e-6, scale: BatchScale = "none"
) -> dict[str, Advantages]:
    """Return every group's advantages by group name.

    With `scale="batch"`, a score minus its group's mean is divided by the standard deviation of all usable scores of
    the batch (https://arxiv.org/abs/2508.08221). A group with nearly equal scores then counts for little, and the
    step size does not depend on the unit of the scores. If all scores of the batch are equal, every group is skipped.
    """
    if scale != "batch":
        return {name: group_advantages(scores, tolerance=tolerance, scale=scale) for name, scores in groups.items()}
    centred = {name: group_advantages(scores, tolerance=tolerance) for name, scores in groups.items()}
    usable = [float(s) for scores in groups.values() for s in scores.values() if s is not None and math.isfinite(s)]
    std = statistics.stdev(usable) if any(a.values for a in centred.values()) else 1.0
    return {name: replace(a, values={i: v / std for i, v in a.values.items()}) for name, a in centred.items()}


def role_advantages(
    scores: Mapping[str, Mapping[str, float | None]], *, tolerance: float = 1e-6, scale: AdvantageScale = "none"
) -> dict[str, dict[str, float]]:
    """Return rollout id → role → advantage. Each role is compared with the same role in the group's other rollouts.

    A role is left out where it is missing in a rollout, has no usable score, or scores the same everywhere. Use the
    result to fill `WeightedRollout.call_advantages`, by the role that made each call.

    Example:
        `role_advantages({"x": {"cook": 1.0}, "y": {"cook": 0.0}})` is `{"x": {"cook": 0.5}, "y": {"cook": -0.5}}`.
    """
    advantages: dict[str, dict[str, float]] = {rollout_id: {} for rollout_id in scores}
    for role in dict.fromkeys(role for by_role in scores.values() for role in by_role):
        role_scores = {rollout_id: by_role[role] for rollout_id, by_role in scores.items() if role in by_role}
        for rollout_id, value in group_advantages(role_scores, tolerance=tolerance, scale=scale).values.items():
            advantages[rollout_id][role] = value
    return advantages


def overlong_penalty(tokens: int, *, longest: int, soft: int) -> float:
    """Return the penalty to add to the score of an answer of `tokens` tokens: DAPO's soft overlong punishment.

    0 up to `longest - soft` tokens, falling linearly to -1 at `longest`, and -1 beyond
    (https://arxiv.org/abs/2503.14476).

    Raises:
        ConfigError: `soft` is not between 1 and `longest`.
    """
    if not 1 <= soft <= longest:
        raise ConfigError(f"soft is {soft}; expected 1 to longest ({longest}) tokens over which the penalty grows")
    return -min(1.0, max(0.0, (tokens - (longest - soft)) / soft))


def _why_unusable(score: float | None) -> str | None:
    if score is None:
        return "no score"
    return None if math.isfinite(score) else f"score is {score}"
