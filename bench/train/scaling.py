"""Cost over growing groups: a straight line through it, how far from the line it is, and both as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression

WIDTH = 48
LINEAR_WITHIN = 0.05
"""Largest distance from the line, as a share of the largest cost, that is called linear."""


@dataclass(frozen=True)
class Line:
    """Seconds as a line in unique tokens, by least squares."""

    seconds_a_token: float
    seconds: float
    """What a step of no tokens would take."""
    residual: float
    """Largest distance of a point from the line, as a share of the largest cost."""

    @property
    def is_linear(self) -> bool:
        """Whether every point lies on the line, noise aside."""
        return self.residual <= LINEAR_WITHIN


def fit(tokens: Sequence[float], seconds: Sequence[float]) -> Line:
    """Return the line through the points, and how far the farthest is from it."""
    slope, start = linear_regression(tokens, seconds)
    away = max(abs(start + slope * t - s) for t, s in zip(tokens, seconds, strict=True))
    return Line(slope, start, away / max(seconds))


def plot(points: Sequence[dict[str, float]]) -> list[str]:
    """Return the lines of a bar chart, unique tokens downwards, with what a token costs and what the fit says of it."""
    tokens, seconds = [at["packed_tokens"] for at in points], [at["cpu_s"] for at in points]
    line = fit(tokens, seconds)
    lines = ["cost of a step over unique tokens (# measured, | on the line)"]
    for at in points:
        bar, mark = (round(WIDTH * s / max(seconds)) for s in (at["cpu_s"], _on(line, at["packed_tokens"])))
        drawn = "".join("|" if k == mark else "#" if k <= bar else " " for k in range(1, WIDTH + 2)).rstrip()
        each = 1e3 * at["cpu_s"] / at["packed_tokens"]
        lines.append(
            f"{at['rollouts']:3.0f} rollouts {at['row_tokens']:6.0f} tokens {at['packed_tokens']:6.0f} unique "
            f"{at['cpu_s']:6.2f} CPU s {each:.3f} ms each  {drawn}"
        )
    verdict = "linear" if line.is_linear else f"SHORT of linear (within {LINEAR_WITHIN:.0%} wanted)"
    lines.append(
        f"{1e3 * line.seconds_a_token:.3f} ms a unique token and {line.seconds:+.2f} s: every point within "
        f"{line.residual:.1%} of the largest: {verdict}"
    )
    return lines


def _on(line: Line, tokens: float) -> float:
    return line.seconds + line.seconds_a_token * tokens
