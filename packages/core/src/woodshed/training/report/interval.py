"""How sure a mean success is: its 95 % interval, with the rollouts of one scenario counted as the cluster they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from statistics import NormalDist

Interval = tuple[float, float]
"""Lower and upper end of a 95 % interval."""

_Z = NormalDist().inv_cdf(0.975)
_T = {1: 12.7062, 2: 4.30265}
"""0.975 quantiles of Student's t for the degrees of freedom where its series does not converge."""


def interval(clusters: Sequence[Sequence[float]]) -> Interval | None:
    """Return the 95 % interval of the mean of all values, given by scenario; None if they do not say how sure it is.

    If every value is 0 or 1, it is the Wilson score interval (Wilson 1927, doi:10.1080/01621459.1927.10502953) at the
    effective sample size `n / deff` (Kish, *Survey Sampling*, 1965; compared for small proportions and few clusters by
    Franco et al. 2019, doi:10.1093/jssam/smy019), where for k scenarios with m_i rollouts, n in all:

        deff = 1 + (Σ m_i² / n - 1) · rho
        rho  = (MSB - MSW) / (MSB + (m_0 - 1) · MSW),   m_0 = (n - Σ m_i² / n) / (k - 1)

    MSB and MSW are the mean squares between and within scenarios; rho is the intracluster correlation, held in 0 to 1.
    With one rollout per scenario `deff` is 1. Where rho cannot be estimated (one scenario, or all values equal) it is
    taken as 1, so every scenario counts once: more rollouts of the same scenario then promise nothing.

    Other values have no bounds that are known here. Their interval is Student's over the scenarios, `mean ±
    t(k - 1) · √v` with `v = k / (k - 1) · Σ (m_i (mean_i - mean))² / n²`: that of the scenarios' means if all have as
    many rollouts. With one scenario, or without any spread, there is none.
    """
    clusters = [c for c in clusters if c]
    values = list(chain.from_iterable(clusters))
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if all(value in (0.0, 1.0) for value in values):
        return _wilson(mean, len(values) / design_effect(clusters))
    return _student(clusters, mean, len(values))


def design_effect(clusters: Sequence[Sequence[float]]) -> float:
    """Return how many times fewer independent values the values of these scenarios are worth, 1 or more."""
    n, k = sum(map(len, clusters)), len(clusters)
    size = sum(len(c) ** 2 for c in clusters) / n
    return 1.0 if n == k else 1.0 + (size - 1.0) * _correlation(clusters, n, k, size)


def _correlation(clusters: Sequence[Sequence[float]], n: int, k: int, size: float) -> float:
    mean = math.fsum(chain.from_iterable(clusters)) / n
    means = [math.fsum(c) / len(c) for c in clusters]
    between = math.fsum(len(c) * (m - mean) ** 2 for c, m in zip(clusters, means, strict=True))
    within = math.fsum((value - m) ** 2 for c, m in zip(clusters, means, strict=True) for value in c)
    if k == 1 or between + within == 0.0:
        return 1.0
    msb, msw, m0 = between / (k - 1), within / (n - k), (n - size) / (k - 1)
    scale = msb + (m0 - 1.0) * msw
    return min(max((msb - msw) / scale, 0.0), 1.0) if scale > 0 else 0.0


def _wilson(mean: float, n: float) -> Interval:
    centre = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2))
    # At 0 and 1 the end is the mean itself, which rounding would put beside it.
    return (0.0 if mean == 0.0 else max(centre - half, 0.0), 1.0 if mean == 1.0 else min(centre + half, 1.0))


def _student(clusters: Sequence[Sequence[float]], mean: float, n: int) -> Interval | None:
    k = len(clusters)
    squares = math.fsum((math.fsum(c) - len(c) * mean) ** 2 for c in clusters)
    if k == 1 or squares == 0.0:
        return None
    half = _t(k - 1) * math.sqrt(k / (k - 1) * squares) / n
    return (mean - half, mean + half)


def _t(df: int) -> float:
    """Return the 0.975 quantile of Student's t, within 0.2 % (Abramowitz and Stegun 1964, 26.7.5)."""
    z = _Z
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return _T.get(df) or sum(term / df**power for power, term in enumerate(terms))


def success_text(success: float, ends: Interval | None) -> str:
    """Return a success with its interval, such as `0.700 [0.397, 0.892]`."""
    return f"{success:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends is not None else "")
