"""Several rewards as one: a judge's scores and programmatic ones, by weight."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from woodshed.errors import ConfigError
from woodshed.rewards.base import Reward
from woodshed.rewards.cache import VerdictCache
from woodshed.types import Failure, Judgement, Score, Trajectory


@dataclass(frozen=True, init=False)
class Blend:
    """The weighted mean of several rewards.

    A trajectory that one of them gives no score has none, and where one fails the group has no scores: a mean over
    fewer parts would not compare. Bring programmatic scores to the judge's range, 0 to 1, or weigh them accordingly.

    Example:
        `Blend((0.8, Ruler("gpt-5-mini")), (0.2, FunctionReward(lambda t: t.metrics["exact_match"])))`
    """

    parts: tuple[tuple[float, Reward], ...]

    def __init__(self, *parts: tuple[float, Reward]) -> None:
        """Blend `(weight, reward)` pairs; weights are taken relative to their sum.

        Raises:
            ConfigError: fewer than two parts, a weight that is not above 0, or two parts of one name.
        """
        if len(parts) < 2:
            raise ConfigError(f"Blend has {len(parts)} parts; expected at least two (weight, reward) pairs")
        for part in parts:
            if not isinstance(part, tuple) or len(part) != 2 or not hasattr(part[1], "judge_group"):
                raise ConfigError(f"Blend has the part {part!r}; expected a pair (weight, reward)")
            if not (math.isfinite(part[0]) and part[0] > 0):
                raise ConfigError(f"Blend has the weight {part[0]!r}; expected a number above 0")
        names = [reward.name for _, reward in parts]
        if len(set(names)) < len(names):
            raise ConfigError(f"Blend has two parts of one name, in {names}; name the functions apart")
        object.__setattr__(self, "parts", parts)

    @property
    def name(self) -> str:
        """The parts with their weights."""
        return " + ".join(f"{weight:g} x {reward.name}" for weight, reward in self.parts)

    @property
    def asks_engine(self) -> bool:
        """Whether a part does."""
        return any(reward.asks_engine for _, reward in self.parts)

    def bound(self, *, base_url: str, api_key: str, cache: VerdictCache | None = None) -> Self:
        """Return a copy of which every part is bound."""
        return type(self)(*((w, r.bound(base_url=base_url, api_key=api_key, cache=cache)) for w, r in self.parts))

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return the weighted mean of all parts' scores; costs add up."""
        found = await asyncio.gather(*(reward.judge_group(trajectories) for _, reward in self.parts))
        bill = _together(self.name, found)
        for (_, reward), judgement in zip(self.parts, found, strict=True):
            if judgement.error is not None:
                said = f"{reward.name}: {judgement.error.message}"
                return bill.model_copy(update={"error": Failure(kind=judgement.error.kind, message=said)})
        return bill.model_copy(update={"scores": tuple(self._scores(trajectories, found))})

    def _scores(self, trajectories: Sequence[Trajectory], found: Sequence[Judgement]) -> list[Score]:
        whole = math.fsum(weight for weight, _ in self.parts)
        tables = [{s.rollout_id: s for s in judgement.scores} for judgement in found]
        made = []
        for rollout_id in (t.rollout_id for t in trajectories):
            rows = [table[rollout_id] for table in tables if rollout_id in table]
            if len(rows) < len(tables):
                continue
            first = rows[0]
            made.append(
                first.model_copy(
                    update={
                        "value": math.fsum(w * s.value for (w, _), s in zip(self.parts, rows, strict=True)) / whole,
                        "explanation": "; ".join(s.explanation for s in rows if s.explanation),
                        "agents": {k: v for s in rows for k, v in s.agents.items()},
                        "calls": {k: v for s in rows for k, v in s.calls.items()},
                        "parts": {r.name: s.value for (_, r), s in zip(self.parts, rows, strict=True)},
                    }
                )
            )
        return made


def _together(name: str, found: Sequence[Judgement]) -> Judgement:
    """Return one judgement without scores that carries all bills."""
    costs = [j.cost_usd for j in found]
    return Judgement(
        judge=name,
        requests=sum(j.requests for j in found),
        prompt_tokens=sum(j.prompt_tokens for j in found),
        completion_tokens=sum(j.completion_tokens for j in found),
        cost_usd=None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None),
        cached=all(not j.requests for j in found) and any(j.cached for j in found),
        consistency=next((j.consistency for j in found if j.consistency is not None), None),
        shortened=max(j.shortened for j in found),
    )
