"""Ask one judge for a grade of each attempt on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from woodshed.rewards.aggregate import JudgeScores, gather_all, mean_scores
from woodshed.rewards.budget import Bill
from woodshed.rewards.label_prompt import GRADES, LabelPrompts
from woodshed.rewards.label_runner import LabelRunner
from woodshed.rewards.verdict import AttemptScore
from woodshed.types import Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleRunner(LabelRunner):
    """Grades every attempt by itself, from 0 to 9. The score is the mean grade, divided by 9."""

    attempts_per_request: ClassVar[int] = 1

    async def judge(self, attempts: Sequence[Trajectory], bill: Bill) -> JudgeScores:
        """Return the score of each attempt: the mean over `permutations` requests, which differ in their fence code.

        Raises:
            JudgeError: one of the attempts got no usable grade.
            CostCeilingError: the next request would exceed the run's cost ceiling.
        """
        prompts = [LabelPrompts(attempts, self.prompt_settings, f"{self.seed}:{k}") for k in range(self.permutations)]
        rows = await gather_all(self._row(p, attempts, bill) for p in prompts)
        return mean_scores(rows, self.tolerance)

    async def _row(self, prompts: LabelPrompts, attempts: Sequence[Trajectory], bill: Bill) -> list[AttemptScore]:
        values = await gather_all(self.value(prompts.single(i), GRADES, bill) for i in range(len(attempts)))
        for attempt, value in zip(attempts, values, strict=True):
            bill.read(self.reading([attempt], value))
        return [AttemptScore(score=v, explanation=f"graded {9 * v:.2f} of 9") for v in values]
