"""Ask one judge for the better one of two attempts, pair by pair and in both orders."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from woodshed.rewards.aggregate import JudgeScores, gather_all
from woodshed.rewards.budget import Bill
from woodshed.rewards.judge_runner import content_rng
from woodshed.rewards.label_prompt import FIRST_IS_BETTER, LabelPrompts
from woodshed.rewards.label_runner import LabelRunner
from woodshed.rewards.tournament import Pair, all_pairs, next_round, rounds_of, win_rates
from woodshed.rewards.verdict import AttemptScore
from woodshed.types import Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRunner(LabelRunner):
    """Compares attempts in pairs; the score is the mean probability of beating another attempt of the group."""

    attempts_per_request: ClassVar[int] = 2

    async def judge(self, attempts: Sequence[Trajectory], bill: Bill) -> JudgeScores:
        """Return the score of each attempt. Small groups are compared pair by pair, larger ones in a tournament.

        Every pair is shown in both orders; each further two `permutations` repeat that with another fence code.

        Raises:
            JudgeError: one of the pairs got no usable reply.
            CostCeilingError: the next request would exceed the run's cost ceiling.
        """
        count = len(attempts)
        repeats = max(1, math.ceil(self.permutations / 2))
        prompts = [LabelPrompts(attempts, self.prompt_settings, f"{self.seed}:{k}") for k in range(repeats)]
        order = content_rng(attempts, self.prompt_settings, self.seed).sample(range(count), count)
        results: dict[Pair, list[float]] = {}
        for _ in range(rounds_of(count) or 1):
            pairs = next_round(order, results) if rounds_of(count) else all_pairs(count)
            played = await gather_all(self._compared(prompts, attempts, pair, bill) for pair in pairs)
            results |= dict(zip(pairs, played, strict=True))
        return JudgeScores(scores=_scores(count, results), consistency=_consistency(results, self.tolerance))

    async def _compared(
        self, prompts: Sequence[LabelPrompts], attempts: Sequence[Trajectory], pair: Pair, bill: Bill
    ) -> list[float]:
        """Return the probability that the first of the pair is better, by each order and fence code."""
        first, second = pair
        shown = [p.pair(*order) for p in prompts for order in ((first, second), (second, first))]
        values = await gather_all(self.value(question, FIRST_IS_BETTER, bill) for question in shown)
        for n, value in enumerate(values):
            order = (second, first) if n % 2 else (first, second)
            bill.read(self.reading([attempts[i] for i in order], value, 1 - value))
        return [1 - value if n % 2 else value for n, value in enumerate(values)]


def _scores(count: int, results: dict[Pair, list[float]]) -> tuple[AttemptScore, ...]:
    met = [sum(i in pair for pair in results) for i in range(count)]
    return tuple(
        AttemptScore(score=rate, explanation=f"wins {100 * rate:.0f} % of comparisons, by those with {met[i]} others")
        for i, rate in enumerate(win_rates(count, results))
    )


def _consistency(results: dict[Pair, list[float]], tolerance: float) -> float:
    """Return the share of comparisons in which two requests prefer the same attempt; a tie agrees by half."""
    agreed = []
    for values in results.values():
        signs = [0.0 if abs(2 * v - 1) <= tolerance else math.copysign(1, v - 0.5) for v in values]
        agreed += [1 - abs(a - b) / 2 for a, b in combinations(signs, 2)]
    return statistics.fmean(agreed)
