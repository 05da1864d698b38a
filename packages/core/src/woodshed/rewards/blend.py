"""A weighted mean of several rewards, such as a judge and a function."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from woodshed.errors import ConfigError
from woodshed.rewards.base import Reward, Scenarios
from woodshed.rewards.cache import VerdictCache
from woodshed.types import Failure, Judgement, Score, Trajectory


@dataclass(frozen=True, init=False)
class Blend:
    """The weighted mean of several rewards.

    A trajectory without a score from every part gets no score. If one part fails, the whole group has no scores: means
    over different parts could not be compared. Scale programmatic scores to the judge's range of 0 to 1, or set the
    weights accordingly.

    Example:
        `Blend((0.8, Ruler("gpt-5-mini")), (0.2, FunctionReward(lambda t: t.metrics["exact_match"])))`
    """

    parts: tuple[tuple[float, Reward], ...]

    def __init__(self, *parts: tuple[float, Reward]) -> None:
        """Blend `(weight, reward)` pairs; the weights are divided by their sum.

        Raises:
            ConfigError: fewer than two parts, a weight that is not above 0, or two parts with the same name.
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
            raise ConfigError(f"Blend has two parts of one name, in {names}; give the functions different names")
        object.__setattr__(self, "parts", parts)

    @property
    def name(self) -> str:
        """The names of the parts with their weights."""
        return " + ".join(f"{weight:g} x {reward.name}" for weight, reward in self.parts)

    @property
    def asks_engine(self) -> bool:
        """Whether any part does."""
        return any(reward.asks_engine for _, reward in self.parts)

    def bound(
        self, *, base_url: str, api_key: str, cache: VerdictCache | None = None, scenarios: Scenarios | None = None
    ) -> Self:
        """Return a copy with every part bound."""
        parts = [
            (w, r.bound(base_url=base_url, api_key=api_key, cache=cache, scenarios=scenarios)) for w, r in self.parts
        ]
        return type(self)(*parts)

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Return the weighted mean of all parts' scores; costs add up."""
        judgements = await asyncio.gather(*(reward.judge_group(trajectories) for _, reward in self.parts))
        total = _total(self.name, judgements)
        for (_, reward), judgement in zip(self.parts, judgements, strict=True):
            if judgement.error is not None:
                message = f"{reward.name}: {judgement.error.message}"
                return total.model_copy(update={"error": Failure(kind=judgement.error.kind, message=message)})
        return total.model_copy(update={"scores": tuple(self._scores(trajectories, judgements))})

    def _scores(self, trajectories: Sequence[Trajectory], judgements: Sequence[Judgement]) -> list[Score]:
        total_weight = math.fsum(weight for weight, _ in self.parts)
        tables = [{s.rollout_id: s for s in judgement.scores} for judgement in judgements]
        blended = []
        for rollout_id in (t.rollout_id for t in trajectories):
            scores = [table[rollout_id] for table in tables if rollout_id in table]
            if len(scores) < len(tables):
                continue
            first = scores[0]
            blended.append(
                first.model_copy(
                    update={
                        "value": math.fsum(w * s.value for (w, _), s in zip(self.parts, scores, strict=True))
                        / total_weight,
                        "explanation": "; ".join(s.explanation for s in scores if s.explanation),
                        "agents": {k: v for s in scores for k, v in s.agents.items()},
                        "calls": {k: v for s in scores for k, v in s.calls.items()},
                        "parts": {r.name: s.value for (_, r), s in zip(self.parts, scores, strict=True)},
                    }
                )
            )
        return blended


def _total(name: str, judgements: Sequence[Judgement]) -> Judgement:
    """Return a judgement without scores that sums requests, tokens and costs."""
    costs = [j.cost_usd for j in judgements]
    return Judgement(
        judge=name,
        requests=sum(j.requests for j in judgements),
        prompt_tokens=sum(j.prompt_tokens for j in judgements),
        completion_tokens=sum(j.completion_tokens for j in judgements),
        cost_usd=None if any(c is None for c in costs) else math.fsum(c for c in costs if c is not None),
        cached=all(not j.requests for j in judgements) and any(j.cached for j in judgements),
        consistency=next((j.consistency for j in judgements if j.consistency is not None), None),
        readings=tuple(reading for j in judgements for reading in j.readings),
        shortened=max(j.shortened for j in judgements),
        failures={rollout_id: failure for j in judgements for rollout_id, failure in j.failures.items()},
    )
