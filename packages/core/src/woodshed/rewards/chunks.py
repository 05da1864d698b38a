"""A group too large for one request: judged in overlapping chunks, whose scales are joined on shared anchors."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from woodshed.errors import JudgeError
from woodshed.rewards.aggregate import Opinion, all_of
from woodshed.rewards.verdict import AttemptScore

_ANCHORS = 2
_SMALLEST_SPREAD = 0.05
"""Anchors closer than this say where a chunk's scale lies, but not how wide it is."""

JudgeSome = Callable[[list[int]], Awaitable[Opinion]]
"""Places of attempts → the judge's opinion of them, in that order."""


def chunk_size(lengths: Sequence[int], shared: int, *, max_attempts: int, window: int | None) -> int:
    """Return how many attempts one request may hold.

    Args:
        lengths: characters of each attempt.
        shared: characters of what they all begin with.
        max_attempts: most attempts of a request.
        window: most characters of a request, or None.

    Raises:
        JudgeError: not even the smallest chunk fits the window.
    """
    if window is None:
        return max_attempts
    longest, room = sorted(lengths, reverse=True), window - shared
    fits = 0
    while fits < len(longest) and longest[fits] <= room:
        room -= longest[fits]
        fits += 1
    least = min(len(lengths), _ANCHORS + 1)
    if fits < least:
        raise JudgeError(
            f"{least} attempts of up to {longest[0]} characters and a task of {shared} do not fit Ruler(window_chars="
            f"{window}); raise it as far as the judge's context allows (4 characters are about a token), or lower "
            "attempt_chars"
        )
    return min(max_attempts, fits)


async def in_chunks(order: Sequence[int], size: int, judge: JudgeSome) -> Opinion:
    """Return the opinion of all attempts, in the order of their places.

    The best and the worst of the first chunk are shown again in every other one. A straight line takes the other
    chunk's scores of these two to those of the first, and the rest with them; the anchors keep their first score.
    """
    first = list(order[:size])
    base = await judge(first)
    marks = dict(zip(first, base.marks, strict=True))
    anchors = _anchors(first, base.marks)
    rest, step = order[size:], size - _ANCHORS
    chunks = [[*anchors, *rest[i : i + step]] for i in range(0, len(rest), step)]
    found = await all_of(judge(chunk) for chunk in chunks)
    for chunk, opinion in zip(chunks, found, strict=True):
        line = _line([m.score for m in opinion.marks[:_ANCHORS]], [marks[a].score for a in anchors])
        marks |= {p: _moved(m, line) for p, m in zip(chunk[_ANCHORS:], opinion.marks[_ANCHORS:], strict=True)}
    return Opinion(marks=tuple(marks[p] for p in sorted(marks)), consistency=_consistency([base, *found]))


def _anchors(places: Sequence[int], marks: Sequence[AttemptScore]) -> list[int]:
    ranked = sorted(range(len(places)), key=lambda k: marks[k].score)
    return [places[ranked[0]], places[ranked[-1]]]


def _line(seen: Sequence[float], wanted: Sequence[float]) -> tuple[float, float]:
    """Return slope and offset that take the anchors' scores here to their scores in the first chunk."""
    low, high = seen
    slope = (wanted[1] - wanted[0]) / (high - low) if high - low >= _SMALLEST_SPREAD else 1.0
    return slope, math.fsum(wanted) / _ANCHORS - slope * (low + high) / 2


def _moved(mark: AttemptScore, line: tuple[float, float]) -> AttemptScore:
    slope, offset = line

    def moved(score: float) -> float:
        return min(1.0, max(0.0, slope * score + offset))

    return replace(
        mark,
        score=moved(mark.score),
        agents={name: moved(s) for name, s in mark.agents.items()},
        steps=tuple(moved(s) for s in mark.steps),
    )


def _consistency(opinions: Sequence[Opinion]) -> float | None:
    """Return the mean of the chunks' figures, each weighing as many pairs as it compared."""
    figures = [(o.consistency, math.comb(len(o.marks), 2)) for o in opinions if o.consistency is not None]
    pairs = sum(weight for _, weight in figures)
    return math.fsum(figure * weight for figure, weight in figures) / pairs if pairs else None
