"""Judge a group that is too large for one request in overlapping chunks, and put their scores on one scale.

Two attempts, the anchors, are part of every chunk. They tell how the scale of one chunk maps to another.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from woodshed.errors import JudgeError
from woodshed.rewards.aggregate import JudgeScores, gather_all
from woodshed.rewards.verdict import AttemptScore

_ANCHORS = 2
_SMALLEST_SPREAD = 0.05
"""Anchors closer than this give only the offset of a chunk's scale, not its slope."""

JudgeSubset = Callable[[list[int]], Awaitable[JudgeScores]]
"""Indices of attempts → the judge's scores of them, in that order."""


def chunk_size(
    lengths: Sequence[int], shared: int, *, max_attempts: int, window: int | None, least: int = _ANCHORS + 1
) -> int:
    """Return how many attempts one request may hold.

    Args:
        lengths: characters of each attempt.
        shared: characters of the part that all attempts share.
        max_attempts: largest number of attempts in a request.
        window: largest number of characters in a request; None means no limit.
        least: smallest number of attempts that a request must hold.

    Raises:
        JudgeError: not even the smallest chunk fits the window.
    """
    if window is None:
        return max_attempts
    longest_first, room = sorted(lengths, reverse=True), window - shared
    fits = 0
    while fits < len(longest_first) and longest_first[fits] <= room:
        room -= longest_first[fits]
        fits += 1
    least = min(len(lengths), least)
    if fits < least:
        raise JudgeError(
            f"{least} attempts of up to {longest_first[0]} characters and a task of {shared} do not fit "
            f"Ruler(window_chars={window}); raise it as far as the judge's context allows (4 characters are about "
            "a token), or lower attempt_chars"
        )
    return min(max_attempts, fits)


async def judge_in_chunks(order: Sequence[int], size: int, judge: JudgeSubset) -> JudgeScores:
    """Return the scores of all attempts, by attempt index.

    The best and the worst attempt of the first chunk are the anchors: every other chunk contains them too. The linear
    map that takes the anchors' scores in a chunk to their scores in the first chunk is applied to that chunk's other
    scores. The anchors keep their first score.

    Args:
        order: attempt indices in the order they are distributed over chunks.
        size: attempts per chunk, at least 3.
        judge: scores one chunk.
    """
    first = list(order[:size])
    first_scores = await judge(first)
    scores = dict(zip(first, first_scores.scores, strict=True))
    anchors = _anchors(first, first_scores.scores)
    rest, step = order[size:], size - _ANCHORS
    chunks = [[*anchors, *rest[i : i + step]] for i in range(0, len(rest), step)]
    judged = await gather_all(judge(chunk) for chunk in chunks)
    for chunk, chunk_scores in zip(chunks, judged, strict=True):
        scale = _linear_map([s.score for s in chunk_scores.scores[:_ANCHORS]], [scores[a].score for a in anchors])
        rescaled = [_rescaled(s, scale) for s in chunk_scores.scores[_ANCHORS:]]
        scores |= dict(zip(chunk[_ANCHORS:], rescaled, strict=True))
    return JudgeScores(
        scores=tuple(scores[i] for i in sorted(scores)), consistency=_consistency([first_scores, *judged])
    )


def _anchors(indices: Sequence[int], scores: Sequence[AttemptScore]) -> list[int]:
    ranked = sorted(range(len(indices)), key=lambda k: scores[k].score)
    return [indices[ranked[0]], indices[ranked[-1]]]


def _linear_map(here: Sequence[float], first: Sequence[float]) -> tuple[float, float]:
    """Return slope and offset that map the anchors' scores in this chunk to their scores in the first chunk."""
    low, high = here
    slope = (first[1] - first[0]) / (high - low) if high - low >= _SMALLEST_SPREAD else 1.0
    return slope, math.fsum(first) / _ANCHORS - slope * (low + high) / 2


def _rescaled(attempt: AttemptScore, scale: tuple[float, float]) -> AttemptScore:
    slope, offset = scale

    def rescaled(score: float) -> float:
        return min(1.0, max(0.0, slope * score + offset))

    return replace(
        attempt,
        score=rescaled(attempt.score),
        agents={name: rescaled(s) for name, s in attempt.agents.items()},
        steps=tuple(rescaled(s) for s in attempt.steps),
    )


def _consistency(chunks: Sequence[JudgeScores]) -> float | None:
    """Return the mean consistency of the chunks, weighted by the number of attempt pairs in each."""
    weighted = [(c.consistency, math.comb(len(c.scores), 2)) for c in chunks if c.consistency is not None]
    pairs = sum(weight for _, weight in weighted)
    return math.fsum(value * weight for value, weight in weighted) / pairs if pairs else None
