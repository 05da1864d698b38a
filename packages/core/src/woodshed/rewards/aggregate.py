"""Scores of several requests or judges → one score per attempt: mean over orders, median over judges."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar, cast

from woodshed.rewards.verdict import AttemptScore

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeScores:
    """One score per attempt, from one judge or aggregated over several."""

    scores: tuple[AttemptScore, ...]
    """In the order of the attempts."""
    consistency: float | None = None
    """Share of attempt pairs ranked the same way in every two requests, 0 to 1; None after a single request."""


async def gather_all(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all, then raise the first failure: this way every reply is billed and every verdict is cached."""
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[T]", results)


def mean_scores(rows: Sequence[Sequence[AttemptScore]], tolerance: float) -> JudgeScores:
    """Return the mean score of each attempt over several requests; the explanations come from the first request.

    Args:
        rows: One row per request, one score per attempt, in the same order.
        tolerance: Scores that differ by no more count as a tie in `consistency`.
    """
    return JudgeScores(scores=_aggregated(rows, statistics.fmean), consistency=consistency_of(rows, tolerance))


def panel_scores(panel: Sequence[JudgeScores]) -> JudgeScores:
    """Return the median over judges. The explanations come from the first judge; the consistency is the mean."""
    consistencies = [judge.consistency for judge in panel if judge.consistency is not None]
    return JudgeScores(
        scores=_aggregated([judge.scores for judge in panel], statistics.median),
        consistency=statistics.fmean(consistencies) if consistencies else None,
    )


def consistency_of(rows: Sequence[Sequence[AttemptScore]], tolerance: float) -> float | None:
    """Return the share of attempt pairs that two requests rank the same way, averaged over all pairs of requests.

    Scores within `tolerance` are a tie. A tie in one request and a strict order in the other agree by half. Without
    ties the result equals (1 + Kendall's τ) / 2. None with fewer than two requests or attempts.
    """
    if len(rows) < 2 or len(rows[0]) < 2:
        return None
    signs = [[_sign(a.score - b.score, tolerance) for a, b in combinations(row, 2)] for row in rows]
    agreed = [1 - abs(a - b) / 2 for one, other in combinations(signs, 2) for a, b in zip(one, other, strict=True)]
    return statistics.fmean(agreed)


def _sign(difference: float, tolerance: float) -> int:
    return 0 if abs(difference) <= tolerance else int(math.copysign(1, difference))


def _aggregated(
    rows: Sequence[Sequence[AttemptScore]], aggregate: Callable[[Sequence[float]], float]
) -> tuple[AttemptScore, ...]:
    return tuple(
        AttemptScore(
            score=aggregate([s.score for s in column]),
            explanation=column[0].explanation,
            agents={name: aggregate([s.agents[name] for s in column]) for name in column[0].agents},
            steps=tuple(aggregate(scores) for scores in zip(*(s.steps for s in column), strict=True)),
        )
        for column in zip(*rows, strict=True)
    )
