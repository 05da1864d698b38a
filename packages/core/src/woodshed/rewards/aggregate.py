"""What a judge thinks of some attempts, and how several opinions become one."""

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
class Opinion:
    """A mark an attempt."""

    marks: tuple[AttemptScore, ...]
    consistency: float | None = None
    """Share of pairs whose order stayed the same from one showing to another; None for a single showing."""


async def all_of(asked: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for every one, so that bills are whole and verdicts kept, and only then raise the first failure."""
    found = await asyncio.gather(*asked, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return cast("list[T]", found)


def averaged(rows: Sequence[Sequence[AttemptScore]], tolerance: float) -> Opinion:
    """Return the mean over showings of the same attempts; the explanations are the first's."""
    return Opinion(marks=_joined(rows, statistics.fmean), consistency=consistency_of(rows, tolerance))


def panel(opinions: Sequence[Opinion]) -> Opinion:
    """Return the median over judges; the explanations are the first judge's, the consistency is their mean."""
    figures = [o.consistency for o in opinions if o.consistency is not None]
    return Opinion(
        marks=_joined([o.marks for o in opinions], statistics.median),
        consistency=statistics.fmean(figures) if figures else None,
    )


def consistency_of(rows: Sequence[Sequence[AttemptScore]], tolerance: float) -> float | None:
    """Return the share of pairs of attempts that two showings order the same way, over all pairs of showings.

    Scores within `tolerance` are a tie; a tie in one showing and an order in the other agree by half. For showings
    without ties it is (1 + Kendall's τ) / 2.
    """
    if len(rows) < 2 or len(rows[0]) < 2:
        return None
    signs = [[_sign(a.score - b.score, tolerance) for a, b in combinations(row, 2)] for row in rows]
    agreed = [1 - abs(a - b) / 2 for one, other in combinations(signs, 2) for a, b in zip(one, other, strict=True)]
    return statistics.fmean(agreed)


def _sign(difference: float, tolerance: float) -> int:
    return 0 if abs(difference) <= tolerance else int(math.copysign(1, difference))


def _joined(
    rows: Sequence[Sequence[AttemptScore]], join: Callable[[Sequence[float]], float]
) -> tuple[AttemptScore, ...]:
    return tuple(
        AttemptScore(
            score=join([m.score for m in column]),
            explanation=column[0].explanation,
            agents={name: join([m.agents[name] for m in column]) for name in column[0].agents},
            steps=tuple(join(scores) for scores in zip(*(m.steps for m in column), strict=True)),
        )
        for column in zip(*rows, strict=True)
    )
