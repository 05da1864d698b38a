"""The `Reward` protocol: anything that scores the trajectories of one group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

from woodshed.rewards.cache import VerdictCache
from woodshed.types import Judgement, Trajectory

Scenarios = Mapping[str, Any]
"""Scenario id → scenario, as the rollout function gets it."""


class Reward(Protocol):
    """Anything that can score the trajectories of one group."""

    @property
    def name(self) -> str:
        """Name shown in reports."""

    @property
    def asks_engine(self) -> bool:
        """Whether it sends requests to a model served by the engine."""

    def bound(
        self, *, base_url: str, api_key: str, cache: VerdictCache | None = None, scenarios: Scenarios | None = None
    ) -> Self:
        """Return a copy that can reach the engine's models, caches its verdicts and knows the run's scenarios."""

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return the group's scores by rollout id. A failure is stored in `Judgement.error`, never as a score."""
