"""A discrete-event model of a training: rollouts ahead of the trainer, a judge with limits, steps, swaps."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy
from simulation.cluster import Cluster, Rates

_LIMITS = 0.7
"""Share of the time from which a part is said to limit the whole."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a training asks for."""

    answers: Sequence[float]
    """Lengths of answers in tokens, to be drawn from."""
    calls_per_rollout: int
    tool_s: float
    """Between two calls of a rollout."""
    group_size: int
    groups: int
    """Of a step."""
    max_concurrency: int
    max_staleness: int
    judge_s: float
    """Of one verdict, over a group."""
    judge_at_once: int
    judge_per_minute: float
    """Its provider's rate limit."""
    step_s: float
    """Of an optimizer step, without the tokens."""
    trained_tokens_per_s: float
    swap_s: float
    steps: int = 20


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What comes of it."""

    replicas: int
    rollouts_per_hour: float
    busy: dict[str, float]
    """Share of the time that each part works: replicas, gateway, store, judge, trainer, swap."""
    staleness: float
    """Steps by which the weights of a rollout's first call are older than those it trains, on average."""

    @property
    def idle(self) -> float:
        """Share of the time that the replicas wait."""
        return 1.0 - self.busy["replicas"]

    @property
    def bottleneck(self) -> str:
        """What works most of the time; where nothing does, it is the time that a rollout and its verdict take."""
        name = max(self.busy, key=self.busy.__getitem__)
        return name if self.busy[name] > _LIMITS else f"latency ({name})"


class Training:
    """One run of the model."""

    def __init__(self, replicas: int, rates: Rates, load: Workload, seed: int = 0) -> None:
        self.env = simpy.Environment()
        self._cluster = Cluster(self.env, replicas, rates)
        self._load = load
        self._random = random.Random(seed)
        self._permits = simpy.Resource(self.env, load.max_concurrency)
        self._judge = simpy.Resource(self.env, load.judge_at_once)
        self._judge_free_s = 0.0
        self._version = 0
        self._served = [self.env.event() for _ in range(load.steps + 1)]
        self._served[0].succeed()
        self._staleness: list[int] = []
        self._busy = {"judge": 0.0, "trainer": 0.0, "swap": 0.0}

    def forecast(self) -> Forecast:
        """Run it to its end."""
        load, cluster = self._load, self._cluster
        self.env.run(self.env.process(self._steps()))
        whole = self.env.now
        replicas = len(cluster.replicas)
        busy = {
            "replicas": sum(r.busy_s for r in cluster.replicas) / replicas / whole,
            "gateway": cluster.gateway.busy_s / whole,
            "store": cluster.store_busy_s / whole,
            "judge": max(self._busy["judge"] / load.judge_at_once, self._limited_s()) / whole,
            "trainer": self._busy["trainer"] / whole,
            "swap": self._busy["swap"] / whole,
        }
        rollouts = load.steps * load.groups * load.group_size
        staleness = sum(self._staleness) / len(self._staleness)
        return Forecast(replicas=replicas, rollouts_per_hour=3600 * rollouts / whole, busy=busy, staleness=staleness)

    def _limited_s(self) -> float:
        return self._load.steps * self._load.groups * 60.0 / self._load.judge_per_minute

    def _steps(self) -> Generator[simpy.Event, Any, None]:
        """Take step after step; each one's rollouts begin as far ahead as the staleness allows."""
        load = self._load
        sampled = [self.env.process(self._sample(step)) for step in range(load.steps)]
        for step in range(load.steps):
            tokens, versions = yield sampled[step]
            self._staleness += [step - version for version in versions]
            trained_s = load.step_s + tokens / load.trained_tokens_per_s
            yield self.env.timeout(trained_s)
            yield self.env.timeout(load.swap_s)
            self._busy["trainer"] += trained_s
            self._busy["swap"] += load.swap_s
            self._version = step + 1
            self._served[step + 1].succeed()

    def _sample(self, step: int) -> Generator[simpy.Event, Any, tuple[float, list[int]]]:
        yield self._served[max(0, step - self._load.max_staleness)]
        groups = [self.env.process(self._group()) for _ in range(self._load.groups)]
        yield self.env.all_of(groups)
        results = [group.value for group in groups]
        return sum(tokens for tokens, _ in results), [v for _, versions in results for v in versions]

    def _group(self) -> Generator[simpy.Event, Any, tuple[float, list[int]]]:
        members = [self.env.process(self._rollout()) for _ in range(self._load.group_size)]
        yield self.env.all_of(members)
        results = [member.value for member in members]
        with self._judge.request() as turn:
            yield turn
            self._judge_free_s = max(self._judge_free_s, self.env.now) + 60.0 / self._load.judge_per_minute
            yield self.env.timeout(self._judge_free_s - self.env.now)
            yield self.env.timeout(self._load.judge_s)
            self._busy["judge"] += self._load.judge_s
        return sum(tokens for tokens, _ in results), [version for _, version in results]

    def _rollout(self) -> Generator[simpy.Event, Any, tuple[float, int]]:
        load = self._load
        with self._permits.request() as permit:
            yield permit
            version, replica, total = self._version, self._cluster.place(), 0.0
            for _ in range(load.calls_per_rollout):
                tokens = self._random.choice(load.answers)
                yield from self._cluster.call(replica, tokens)
                yield self.env.timeout(load.tool_s)
                total += tokens
            replica.rollouts -= 1
        return total, version
