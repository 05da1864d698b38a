"""Held-out scenarios before the first step and after the last: rollouts whose truth is measured, never trained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from woodshed.training.config import Evaluation, scenario_ids
from woodshed.training.report.diagnostics import check_rollouts
from woodshed.training.report.progress import RunProgress
from woodshed.training.rollouts.groups import RunContext
from woodshed.training.rollouts.prefetch import one_error
from woodshed.types import Trajectory

_STEP = -1
"""Where an evaluation stands among the steps that wait for a place."""


async def evaluate(stage: RunContext, evaluation: Evaluation | None, name: str, progress: RunProgress) -> None:
    """Measure the policy as it is, and keep the mean under `success_NAME`; what was measured before stays."""
    if evaluation is None or stage.store.fact(f"success_{name}") is not None:
        return
    pairs = list(zip(scenario_ids(evaluation.scenarios), evaluation.scenarios, strict=True))
    progress.measuring(name, len(pairs) * evaluation.rollouts_per_scenario)
    clock = time.perf_counter()
    measured = await _roll_out(stage, name, pairs, evaluation.rollouts_per_scenario, progress.counted)
    values = [float(evaluation.measure(t, s)) for t, s in measured if t.status == "completed"]
    if not values:
        stage.store.set_failed_aside(name)
        check_rollouts([t for t, _ in measured])
    stage.store.save_fact(f"success_{name}", sum(values) / len(values))
    stage.store.save_fact(f"masked_{name}", len(measured) - len(values))
    stage.store.save_fact(f"seconds_{name}", time.perf_counter() - clock)
    progress.measured(name, sum(values) / len(values))


async def _roll_out(
    stage: RunContext, name: str, scenarios: Sequence[tuple[str, Any]], each: int, counted: Callable[[], None]
) -> list[tuple[Trajectory, Any]]:
    async def one(scenario_id: str, scenario: Any, number: int) -> tuple[Trajectory, Any]:
        trajectory = await stage.rollout(_STEP, f"{name}/{scenario_id}/{number}", scenario, scenario_id)
        counted()
        return trajectory, scenario

    with one_error():
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(i, s, k)) for i, s in scenarios for k in range(each)]
    return [t.result() for t in running]
