"""Scenarios → the groups of one step, each judged as soon as its rollouts are finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from woodshed.capture import RolloutFunction, new_id
from woodshed.engine.client.client import EngineClient
from woodshed.rewards.base import Reward
from woodshed.training.config import Policy, TrainConfig
from woodshed.training.rollouts.prefetch import PrioritySemaphore
from woodshed.training.rollouts.ray_pool import RayPool
from woodshed.training.rollouts.rollout import Place, run_rollout
from woodshed.training.rollouts.sampling import spare_scenarios, step_scenarios
from woodshed.training.run.store import RunStore
from woodshed.training.step_request import is_flat
from woodshed.types import Group, Judgement, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContext:
    """What all steps of a run share."""

    function: RolloutFunction
    client: EngineClient
    store: RunStore
    policy: Policy
    policy_name: str
    config: TrainConfig
    start_version: int
    """Version of the weights before the first step."""
    semaphore: PrioritySemaphore
    """Limits the rollouts in flight across all groups and steps."""
    trainer_warnings: tuple[str, ...] = ()
    """What the trainer warned of when the policy was opened."""

    workers: RayPool | None = None
    """Where the agent runs; None is this process."""

    async def rollout(self, step: int, key: str, scenario: Any, scenario_id: str) -> Trajectory:
        """Return the stored rollout of `key` (`step/scenario/number`), or run and store it if there is none."""
        if (stored := self.store.trajectory(key)) is not None:
            return stored

        async def run(place: Place | None) -> Trajectory:
            self.store.rollout_runs(key, rollout_id := new_id())
            return await run_rollout(
                self.function,
                scenario,
                scenario_id=scenario_id,
                client=self.client,
                policy=self.policy_name,
                sampling=self.policy.sampling(),
                timeout_s=self.config.rollout_timeout_s,
                rollout_id=rollout_id,
                place=place,
            )

        self.store.rollout_waits(key)
        async with self.semaphore.acquired(step):
            trajectory = await (run(None) if self.workers is None else self.workers.practise(run))
        self.store.save_trajectory(key, trajectory)
        return trajectory


class RolloutListener(Protocol):
    """Is notified of the progress of a step's rollouts."""

    def rollouts_started(self, step: int, count: int) -> None:
        """`count` more rollouts of a step have started."""

    def rollout_done(self, step: int) -> None:
        """One rollout has ended."""

    def group_judged(self, step: int) -> None:
        """One group has been judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepGroups:
    """The judged groups of one step."""

    groups: tuple[Group, ...]
    flat: int
    """Number of groups whose scores are all equal."""
    extra: int
    """Number of groups drawn in addition, in place of flat ones."""
    seconds: float
    """From the start of the first rollout to the last judgement."""


async def sample_groups(
    context: RunContext, step: int, scenarios: Mapping[str, Any], reward: Reward, listener: RolloutListener
) -> StepGroups:
    """Return the step's groups. For each flat group one more scenario is drawn, up to `extra_scenarios`."""
    clock, config = time.perf_counter(), context.config
    ids = list(scenarios)
    pending, spare = step_scenarios(ids, step, config), spare_scenarios(ids, step, config)
    regular, flat = len(pending), 0
    groups: list[Group] = []
    while pending:
        sampled = await run_groups(context, step, [(i, scenarios[i]) for i in pending], reward, listener)
        missing = sum(is_flat(g, config.score_tolerance, config.advantage) for g in sampled)
        groups, flat = [*groups, *sampled], flat + missing
        pending, spare = spare[:missing], spare[missing:]
    return StepGroups(groups=tuple(groups), flat=flat, extra=len(groups) - regular, seconds=time.perf_counter() - clock)


async def run_groups(
    context: RunContext, step: int, scenarios: Sequence[tuple[str, Any]], reward: Reward, listener: RolloutListener
) -> list[Group]:
    """Return one judged group per scenario. Rollouts and judgements already in the store are reused."""
    listener.rollouts_started(step, len(scenarios) * context.config.group_size)

    async def one(scenario_id: str, scenario: Any) -> Group:
        group_id = f"{step}/{scenario_id}"

        async def member(number: int) -> Trajectory:
            trajectory = await context.rollout(step, f"{group_id}/{number}", scenario, scenario_id)
            listener.rollout_done(step)
            return trajectory

        async with asyncio.TaskGroup() as rollouts:
            members = [rollouts.create_task(member(k)) for k in range(context.config.group_size)]
        trajectories = tuple(m.result() for m in members)
        judgement = await _judged(context.store, group_id, trajectories, reward)
        listener.group_judged(step)
        return Group(group_id=group_id, scenario_id=scenario_id, trajectories=trajectories, judgement=judgement)

    async with asyncio.TaskGroup() as groups:
        tasks = [groups.create_task(one(i, s)) for i, s in scenarios]
    return [t.result() for t in tasks]


async def _judged(store: RunStore, group_id: str, trajectories: Sequence[Trajectory], reward: Reward) -> Judgement:
    stored = store.judgement(group_id)
    if stored is not None and stored.error is None:
        return stored
    judgement = await reward.judge_group(trajectories)
    store.save_judgement(group_id, judgement)
    return judgement
