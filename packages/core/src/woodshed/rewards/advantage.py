"""Scores → advantages, relative to the mean of the rollouts of one scenario, and to that of each role in them."""

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


def batch_advantages(
    groups: Mapping[str, Mapping[str, float | None]], *, tolerance: float = 1e-6, scale: BatchScale = "none"
) -> dict[str, Advantages]:
    """Return every group's advantages by the group's name.

    With `batch`, each is the score less its own group's mean, divided by the standard deviation of all usable scores
    of the batch: a group that agrees almost entirely then counts for little, and the size of a step does not depend on
    the unit of the scores (https://arxiv.org/abs/2508.08221). A batch of equal scores has only skipped groups.
    """
    if scale != "batch":
        return {name: group_advantages(scores, tolerance=tolerance, scale=scale) for name, scores in groups.items()}
    found = {name: group_advantages(scores, tolerance=tolerance) for name, scores in groups.items()}
    usable = [float(s) for scores in groups.values() for s in scores.values() if s is not None and math.isfinite(s)]
    unit = statistics.stdev(usable) if any(a.values for a in found.values()) else 1.0
    return {name: replace(a, values={i: v / unit for i, v in a.values.items()}) for name, a in found.items()}


def role_advantages(
    scores: Mapping[str, Mapping[str, float | None]], *, tolerance: float = 1e-6, scale: AdvantageScale = "none"
) -> dict[str, dict[str, float]]:
    """Return rollout id → role → advantage, each role compared with the same role in the group's other rollouts.

    A role that is missing in a rollout, has no usable score, or scores equally everywhere has no advantage there: it is
    left out. What is found is meant for `WeightedRollout.call_advantages`, by the role each call was made in.

    Example:
        `role_advantages({"x": {"cook": 1.0}, "y": {"cook": 0.0}})` is `{"x": {"cook": 0.5}, "y": {"cook": -0.5}}`.
    """
    found: dict[str, dict[str, float]] = {rollout_id: {} for rollout_id in scores}
    for role in dict.fromkeys(role for by_role in scores.values() for role in by_role):
        of_role = {rollout_id: by_role[role] for rollout_id, by_role in scores.items() if role in by_role}
        for rollout_id, value in group_advantages(of_role, tolerance=tolerance, scale=scale).values.items():
            found[rollout_id][role] = value
    return found


def overlong_penalty(tokens: int, *, longest: int, soft: int) -> float:
    """Return what to add to the score of an answer of `tokens` tokens: DAPO's soft overlong punishment.

    0 up to `longest - soft` tokens, falling evenly to -1 at `longest`, and -1 beyond (https://arxiv.org/abs/2503.14476).

    Raises:
        ConfigError: `soft` is not between 1 and `longest`.
    """
    if not 1 <= soft <= longest:
        raise ConfigError(f"soft is {soft}; expected 1 to longest ({longest}) tokens over which the penalty grows")
    return -min(1.0, max(0.0, (tokens - (longest - soft)) / soft))


def _unusable(score: float | None) -> str | None:
    if score is None:
        return "no score"
    return None if math.isfinite(score) else f"score is {score}"
