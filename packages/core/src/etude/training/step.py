"""One step's rollouts: scenarios → groups, each judged as soon as its rollouts are in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from etude.capture import RolloutFunction
from etude.engine.client import EngineClient
from etude.rewards.function import Reward
from etude.training.config import Policy, TrainConfig
from etude.training.rollout import run_rollout
from etude.training.store import RunStore
from etude.types import Group, Judgement, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What every step of a run needs and none changes."""

    function: RolloutFunction
    client: EngineClient
    store: RunStore
    policy: Policy
    policy_name: str
    config: TrainConfig
    slots: asyncio.Semaphore
    """Bounds the rollouts in flight across all groups."""

    async def rollout(self, slot: str, scenario: Any, scenario_id: str) -> Trajectory:
        """Return the slot's finished rollout, running it only if the run has none yet."""
        if (kept := self.store.trajectory(slot)) is not None:
            return kept
        async with self.slots:
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


async def run_groups(
    stage: Stage,
    step: int,
    scenarios: Sequence[tuple[str, Any]],
    reward: Reward,
    *,
    on_rollout: Callable[[Trajectory], None],
    on_group: Callable[[Group], None],
) -> list[Group]:
    """Return one judged group a scenario; rollouts and judgements already in the store are not paid twice."""

    async def one(scenario_id: str, scenario: Any) -> Group:
        group_id = f"{step}/{scenario_id}"

        async def member(number: int) -> Trajectory:
            trajectory = await stage.rollout(f"{group_id}/{number}", scenario, scenario_id)
            on_rollout(trajectory)
            return trajectory

        async with asyncio.TaskGroup() as rollouts:
            members = [rollouts.create_task(member(k)) for k in range(stage.config.group_size)]
        trajectories = tuple(m.result() for m in members)
        judgement = await _judged(stage.store, group_id, trajectories, reward)
        group = Group(group_id=group_id, scenario_id=scenario_id, trajectories=trajectories, judgement=judgement)
        on_group(group)
        return group

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


async def measure(
    stage: Stage, name: str, scenarios: Sequence[tuple[str, Any]], rollouts_per_scenario: int,
    on_rollout: Callable[[Trajectory], None],
) -> list[tuple[Trajectory, Any]]:  # fmt: skip
    """Return rollouts of held-out scenarios under the current weights; they are never judged and never trained."""

    async def one(scenario_id: str, scenario: Any, number: int) -> tuple[Trajectory, Any]:
        trajectory = await stage.rollout(f"{name}/{scenario_id}/{number}", scenario, scenario_id)
        on_rollout(trajectory)
        return trajectory, scenario

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one(i, s, k)) for i, s in scenarios for k in range(rollouts_per_scenario)]
    return [t.result() for t in running]
