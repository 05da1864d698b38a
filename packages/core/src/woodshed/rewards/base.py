"""A programmatic reward, for those who have one: a function of a trajectory in place of a judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from woodshed.rewards.cache import VerdictCache
from woodshed.types import Failure, Judgement, Score, Trajectory


class Reward(Protocol):
    """Anything that can score the trajectories of one group."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def asks_engine(self) -> bool:
        """Whether it asks a model that the engine serves."""

    def bound(self, *, base_url: str, api_key: str, cache: VerdictCache | None = None) -> Self:
        """Return a copy that can reach the models the engine serves and keeps its verdicts in `cache`."""

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return the group's scores by rollout id; a failure is data on the judgement, never a score."""


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """Scores each completed trajectory with a function of it; `None` or NaN masks the trajectory."""

    function: Callable[[Trajectory], float | None]

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__qualname__", "function"))

    @property
    def asks_engine(self) -> bool:
        """Never."""
        return False

    def bound(self, *, base_url: str, api_key: str, cache: VerdictCache | None = None) -> Self:
        """Return itself: a function needs no engine."""
        return self

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return one score a completed trajectory; the function's exception masks the whole group."""
        scores = []
        try:
            for trajectory in trajectories:
                value = self.function(trajectory) if trajectory.status == "completed" else None
                if value is not None and not math.isnan(value):
                    scores.append(Score(rollout_id=trajectory.rollout_id, value=float(value)))
        except Exception as error:
            # The user's code at our boundary: its failure is the group's, and never a reward of 0.
            return Judgement(judge=self.name, error=Failure(kind=type(error).__name__, message=str(error)))
        return Judgement(judge=self.name, scores=tuple(scores), cost_usd=0.0)
