"""Scenarios → the groups of one step, each judged as soon as its rollouts are in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from woodshed.capture import RolloutFunction
from woodshed.engine.client.client import EngineClient
from woodshed.rewards.base import Reward
from woodshed.training.config import Policy, TrainConfig
from woodshed.training.rollouts.prefetch import PrioritySemaphore
from woodshed.training.rollouts.rollout import run_rollout
from woodshed.training.rollouts.sampling import batch_ids, further_ids
from woodshed.training.run.store import RunStore
from woodshed.training.step_request import is_flat
from woodshed.types import Group, Judgement, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContext:
    """What every step of a run needs and none changes."""

    function: RolloutFunction
    client: EngineClient
    store: RunStore
    policy: Policy
    policy_name: str
    config: TrainConfig
    start_version: int
    """Version of the weights before the first step."""
    slots: PrioritySemaphore
    """Bounds the rollouts in flight across all groups and steps."""

    async def rollout(self, step: int, slot: str, scenario: Any, scenario_id: str) -> Trajectory:
        """Return the slot's finished rollout, running it only if the run has none yet."""
        if (kept := self.store.trajectory(slot)) is not None:
            return kept
        async with self.slots.taken(step):
            trajectory = await run_rollout(
                self.function,
                scenario,
                scenario_id=scenario_id,
                client=self.client,
                policy=self.policy_name,
                sampling=self.policy.sampling(),
                timeout_s=self.config.rollout_timeout_s,
            )
        self.store.save_trajectory(slot, trajectory)
        return trajectory


class GroupWatcher(Protocol):
    """Is told how far the rollouts of a step are."""

    def rollouts(self, step: int, total: int) -> None:
        """Hear that `total` rollouts of a step begin, or so many more."""

    def rollout(self, step: int) -> None:
        """Hear that one rollout has ended."""

    def judged(self, step: int) -> None:
        """Hear that one group was judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepGroups:
    """The judged groups of one step."""

    groups: tuple[Group, ...]
    flat: int
    """Groups whose scores are all equal."""
    extra: int
    """Groups beyond the step's own, drawn in place of flat ones."""
    seconds: float
    """From the start of the first rollout to the last verdict."""


async def sample_batch(
    stage: RunContext, step: int, scenarios: Mapping[str, Any], reward: Reward, watcher: GroupWatcher
) -> StepGroups:
    """Return the step's groups; flat ones are made up for by further scenarios, as far as `extra_scenarios` goes."""
    clock, config = time.perf_counter(), stage.config
    wanted, spare = batch_ids(list(scenarios), step, config), further_ids(list(scenarios), step, config)
    own, flat = len(wanted), 0
    groups: list[Group] = []
    while wanted:
        found = await run_groups(stage, step, [(i, scenarios[i]) for i in wanted], reward, watcher)
        missing = sum(is_flat(g, config.score_tolerance, config.advantage) for g in found)
        groups, flat = [*groups, *found], flat + missing
        wanted, spare = spare[:missing], spare[missing:]
    return StepGroups(groups=tuple(groups), flat=flat, extra=len(groups) - own, seconds=time.perf_counter() - clock)


async def run_groups(
    stage: RunContext, step: int, scenarios: Sequence[tuple[str, Any]], reward: Reward, watcher: GroupWatcher
) -> list[Group]:
    """Return one judged group a scenario; rollouts and judgements already in the store are not paid twice."""
    watcher.rollouts(step, len(scenarios) * stage.config.group_size)

    async def one(scenario_id: str, scenario: Any) -> Group:
        group_id = f"{step}/{scenario_id}"

        async def member(number: int) -> Trajectory:
            trajectory = await stage.rollout(step, f"{group_id}/{number}", scenario, scenario_id)
            watcher.rollout(step)
            return trajectory

        async with asyncio.TaskGroup() as rollouts:
            members = [rollouts.create_task(member(k)) for k in range(stage.config.group_size)]
        trajectories = tuple(m.result() for m in members)
        judgement = await _judged(stage.store, group_id, trajectories, reward)
        watcher.judged(step)
        return Group(group_id=group_id, scenario_id=scenario_id, trajectories=trajectories, judgement=judgement)

    async with asyncio.TaskGroup() as groups:
        tasks = [groups.create_task(one(i, s)) for i, s in scenarios]
    return [t.result() for t in tasks]


async def _judged(store: RunStore, group_id: str, trajectories: Sequence[Trajectory], reward: Reward) -> Judgement:
    kept = store.judgement(group_id)
    if kept is not None and kept.error is None:
        return kept
    judgement = await reward.judge_group(trajectories)
    store.save_judgement(group_id, judgement)
    return judgement
