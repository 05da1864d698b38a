"""Cost of a step over growing groups: a linear fit, how far the points are from it, and both as a text chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression

WIDTH = 48
LINEAR_WITHIN = 0.05
"""Largest distance from the line, as a share of the largest cost, that is called linear."""


@dataclass(frozen=True)
class Line:
    """Seconds of a step as a linear function of its unique tokens, by least squares."""

    seconds_a_token: float
    seconds: float
    """Seconds of a step without tokens."""
    residual: float
    """Largest distance of a point from the line, as a share of the largest cost."""

    @property
    def is_linear(self) -> bool:
        """Whether every point is on the line, apart from noise."""
        return self.residual <= LINEAR_WITHIN


def fit(tokens: Sequence[float], seconds: Sequence[float]) -> Line:
    """Return the line through the points, with the distance of the farthest."""
    slope, start = linear_regression(tokens, seconds)
    away = max(abs(start + slope * t - s) for t, s in zip(tokens, seconds, strict=True))
    return Line(slope, start, away / max(seconds))


def plot(points: Sequence[dict[str, float]]) -> list[str]:
    """Return the lines of a bar chart over unique tokens, with the cost per token and the fit."""
    tokens, seconds = [point["packed_tokens"] for point in points], [point["cpu_s"] for point in points]
    line = fit(tokens, seconds)
    lines = ["cost of a step over unique tokens (# measured, | on the line)"]
    for point in points:
        bar, mark = (round(WIDTH * s / max(seconds)) for s in (point["cpu_s"], _on(line, point["packed_tokens"])))
        drawn = "".join("|" if k == mark else "#" if k <= bar else " " for k in range(1, WIDTH + 2)).rstrip()
        each = 1e3 * point["cpu_s"] / point["packed_tokens"]
        lines.append(
            f"{point['rollouts']:3.0f} rollouts {point['row_tokens']:6.0f} tokens {point['packed_tokens']:6.0f} unique "
            f"{point['cpu_s']:6.2f} CPU s {each:.3f} ms each  {drawn}"
        )
    verdict = "linear" if line.is_linear else f"NOT linear (target: within {LINEAR_WITHIN:.0%})"
    lines.append(
        f"{1e3 * line.seconds_a_token:.3f} ms a unique token and {line.seconds:+.2f} s: every point within "
        f"{line.residual:.1%} of the largest: {verdict}"
    )
    return lines


def _on(line: Line, tokens: float) -> float:
    return line.seconds + line.seconds_a_token * tokens
