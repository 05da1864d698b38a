"""The `Reward` protocol, and a reward computed by your own function instead of a judge."""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from woodshed.rewards.cache import VerdictCache
from woodshed.types import Failure, Judgement, Score, Trajectory


class Reward(Protocol):
    """Anything that can score the trajectories of one group."""

    @property
    def name(self) -> str:
        """Name shown in reports."""

    @property
    def asks_engine(self) -> bool:
        """Whether it sends requests to a model served by the engine."""

    def bound(self, *, base_url: str, api_key: str, cache: VerdictCache | None = None) -> Self:
        """Return a copy that can reach the engine's models and caches its verdicts in `cache`."""

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return the group's scores by rollout id. A failure is stored in `Judgement.error`, never as a score."""


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """Scores each completed trajectory with your function; `None` or NaN masks the trajectory."""

    function: Callable[[Trajectory], float | Awaitable[float | None] | None]
    """Sync or async."""

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__qualname__", "function"))

    @property
    def asks_engine(self) -> bool:
        """Always False."""
        return False

    def bound(self, *, base_url: str, api_key: str, cache: VerdictCache | None = None) -> Self:
        """Return self: a function needs no engine."""
        return self

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return one score per completed trajectory; an exception in the function masks the whole group."""
        scores = []
        try:
            for trajectory in trajectories:
                value = await self._value(trajectory) if trajectory.status == "completed" else None
                if value is not None:
                    scores.append(Score(rollout_id=trajectory.rollout_id, value=value))
        except Exception as error:
            # User code: its failure masks the group and is never a reward of 0.
            return Judgement(judge=self.name, error=Failure(kind=type(error).__name__, message=str(error)))
        return Judgement(judge=self.name, scores=tuple(scores), cost_usd=0.0)

    async def _value(self, trajectory: Trajectory) -> float | None:
        """Return the function's value; None masks the rollout. A sync function runs in a thread: it may be slow."""
        if inspect.iscoroutinefunction(self.function):
            value = await self.function(trajectory)
        else:
            value = await asyncio.to_thread(self.function, trajectory)
            value = await value if inspect.isawaitable(value) else value
        if value is not None and not isinstance(value, numbers.Real):
            raise TypeError(
                f"reward function {self.name!r} returned {value!r}, a {type(value).__name__}; expected a number, or "
                "None to mask the rollout"
            )
        return None if value is None or math.isnan(value) else float(value)
