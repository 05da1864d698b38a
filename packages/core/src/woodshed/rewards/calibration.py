"""How far a judge can be trusted, from attempts that people have scored: intervals, and a corrected success rate."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_RESAMPLES = 2_000
_Z = 1.96
"""95 % of a normal distribution lie within this many standard deviations."""


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean, by drawing the values (one a group) again with replacement."""
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return means[round(0.025 * (_RESAMPLES - 1))], means[round(0.975 * (_RESAMPLES - 1))]


@dataclass(frozen=True, kw_only=True, slots=True)
class SuccessRate:
    """The share of successful attempts: as the judge has it, and corrected for the judge's errors."""

    judged: float
    """Share of the attempts that the judge calls a success."""
    sensitivity: float
    """Share of the true successes that the judge calls so."""
    specificity: float
    """Share of the true failures that the judge calls so."""
    corrected: float | None
    """Estimate of the true share; None where the judge tells success from failure no better than a coin."""
    interval: tuple[float, float] | None
    """95 % interval of `corrected`."""


def success_rate(judged: Sequence[bool], successes: Sequence[bool], failures: Sequence[bool]) -> SuccessRate:
    """Return the success rate, corrected as by Rogan and Gladen: (p + q0 - 1) / (q0 + q1 - 1).

    p is the judged rate, q1 the sensitivity, q0 the specificity. The interval, by Lang and Reiczigel, covers the
    uncertainty of all three; https://arxiv.org/abs/2511.21140 recommends both for LLM judges.

    Args:
        judged: the judge's verdict on each attempt of the rate.
        successes: its verdicts on attempts that people call a success.
        failures: its verdicts on attempts that people call a failure.

    Raises:
        ValueError: one of the three is empty.
    """
    if not judged or not successes or not failures:
        raise ValueError("a success rate needs judged attempts, true successes and true failures")
    rate, sensitivity = statistics.fmean(judged), statistics.fmean(successes)
    specificity = 1 - statistics.fmean(failures)
    skill = sensitivity + specificity - 1
    known = skill > 0
    return SuccessRate(
        judged=rate,
        sensitivity=sensitivity,
        specificity=specificity,
        corrected=_within((rate + specificity - 1) / skill) if known else None,
        interval=_interval(sum(judged), len(judged), successes, failures) if known else None,
    )


def _interval(
    positive: int, count: int, successes: Sequence[bool], failures: Sequence[bool]
) -> tuple[float, float] | None:
    """Return the interval of Lang and Reiczigel (2014, https://doi.org/10.1016/j.prevetmed.2013.09.015)."""
    n, n1, n0 = count + _Z**2, len(successes) + 2, len(failures) + 2
    p = (positive + _Z**2 / 2) / n
    q1, q0 = (sum(successes) + 1) / n1, (len(failures) - sum(failures) + 1) / n0
    skill = q1 + q0 - 1
    if skill <= 0:
        return None
    centre = (p + q0 - 1) / skill
    v1, v0 = q1 * (1 - q1) / n1, q0 * (1 - q0) / n0
    shift = 2 * _Z**2 * (centre * v1 - (1 - centre) * v0)
    half = _Z * math.sqrt(p * (1 - p) / n + centre**2 * v1 + (1 - centre) ** 2 * v0) / skill
    return _within(centre + shift - half), _within(centre + shift + half)


def _within(share: float) -> float:
    return min(1.0, max(0.0, share))
