"""Several judges → one verdict: the median of a panel, and a second judge when the first is not consistent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from woodshed.errors import JudgeError, JudgeRefused
from woodshed.rewards.aggregate import JudgeScores, panel_scores
from woodshed.rewards.budget import Bill, Budget
from woodshed.rewards.chunks import chunk_size, judge_in_chunks
from woodshed.rewards.judge_runner import content_rng
from woodshed.rewards.prompt import PromptSettings, transcripts
from woodshed.types import Trajectory

_log = logging.getLogger("woodshed.rewards")


class Runner(Protocol):
    """One judge, asked in one of the modes."""

    @property
    def budget(self) -> Budget:
        """What all judges of the ruler may cost."""

    @property
    def attempts_per_request(self) -> int | None:
        """Number of attempts that one request shows; None means as many as fit."""

    @property
    def name(self) -> str:
        """The judge's name."""

    async def judge(self, attempts: Sequence[Trajectory], bill: Bill) -> JudgeScores:
        """Return the score of each attempt, or raise `JudgeError` or `CostCeilingError`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePanel:
    """One judge or more, and how a group is divided into requests."""

    judges: tuple[Runner, ...]
    escalate_to: Runner | None
    """Judge whose verdict replaces the panel's if its consistency is below `escalate_below`."""
    escalate_below: float
    prompt_settings: PromptSettings
    max_attempts: int
    """Largest number of attempts in one request."""
    window_chars: int | None
    """Longest text of one request, in characters; None means no limit."""
    seed: int

    @property
    def name(self) -> str:
        """The names of all judges, joined by ` + `."""
        return " + ".join(judge.name for judge in self.judges)

    async def judge(self, attempts: Sequence[Trajectory], bill: Bill) -> tuple[str, JudgeScores]:
        """Return the name of the judges whose verdict counts, and their scores in the order of `attempts`.

        Raises:
            JudgeRefused: half of the panel or more failed, and one of them for good.
            JudgeError: half of the panel or more gave no usable verdict, or the attempts do not fit the window.
            CostCeilingError: the next request would exceed the run's cost ceiling.
        """
        name, scores = await self._all_judges(attempts, bill)
        if self.escalate_to is None or scores.consistency is None or scores.consistency >= self.escalate_below:
            return name, scores
        _log.info(
            "judge %r ranks only %.0f %% of the attempt pairs consistently; asking %r instead",
            name, 100 * scores.consistency, self.escalate_to.name,
        )  # fmt: skip
        return self.escalate_to.name, await self._one_judge(self.escalate_to, attempts, bill)

    async def drained(self) -> None:
        """Wait until no request is in flight, so that no paid reply is lost when the run ends."""
        await self.judges[0].budget.drained()

    async def _all_judges(self, attempts: Sequence[Trajectory], bill: Bill) -> tuple[str, JudgeScores]:
        """Return the median over the judges that succeed, as long as they are more than half."""
        results = await asyncio.gather(
            *(self._one_judge(judge, attempts, bill) for judge in self.judges), return_exceptions=True
        )
        for error in results:
            if isinstance(error, BaseException) and not isinstance(error, JudgeError):
                raise error
        usable = {j.name: r for j, r in zip(self.judges, results, strict=True) if isinstance(r, JudgeScores)}
        failed = [error for error in results if isinstance(error, JudgeError)]
        if len(failed) * 2 >= len(results):
            raise next((error for error in failed if isinstance(error, JudgeRefused)), failed[0])
        for error in failed:
            _log.warning("a judge of the panel failed and is left out for one group: %s", error)
        return " + ".join(usable), panel_scores(list(usable.values()))

    async def _one_judge(self, judge: Runner, attempts: Sequence[Trajectory], bill: Bill) -> JudgeScores:
        """Return one judge's scores of all attempts, in chunks if they do not fit one request."""
        texts = transcripts(attempts, self.prompt_settings)
        lengths, shared = [len(text) for text in texts.attempts], len(texts.shared)
        if judge.attempts_per_request is not None:
            least = judge.attempts_per_request
            chunk_size(lengths, shared, max_attempts=least, window=self.window_chars, least=least)
            return await judge.judge(attempts, bill)
        size = chunk_size(lengths, shared, max_attempts=self.max_attempts, window=self.window_chars)
        if len(attempts) <= size:
            return await judge.judge(attempts, bill)
        rng = content_rng(attempts, self.prompt_settings, self.seed)
        order = rng.sample(range(len(attempts)), len(attempts))
        return await judge_in_chunks(order, size, lambda chunk: judge.judge([attempts[i] for i in chunk], bill))
