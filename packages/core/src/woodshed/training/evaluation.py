"""Evaluation before the first step and after the last: rollouts on held-out scenarios, measured and never trained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from woodshed.training.config import Evaluation, scenario_ids
from woodshed.training.report.diagnostics import check_rollouts
from woodshed.training.report.progress import RunProgress
from woodshed.training.rollouts.groups import RunContext
from woodshed.training.rollouts.prefetch import unwrapped_error
from woodshed.types import Trajectory

_PRIORITY = -1
"""Priority of evaluation rollouts in the semaphore: before every training step."""


async def evaluate(context: RunContext, evaluation: Evaluation | None, name: str, progress: RunProgress) -> None:
    """Measure the current policy and save the mean as `success_NAME`; skip an evaluation that is already saved."""
    if evaluation is None or context.store.fact(f"success_{name}") is not None:
        return
    pairs = list(zip(scenario_ids(evaluation.scenarios), evaluation.scenarios, strict=True))
    progress.evaluation_started(name, len(pairs) * evaluation.rollouts_per_scenario)
    clock = time.perf_counter()
    measured = await _roll_out(context, name, pairs, evaluation.rollouts_per_scenario, progress.advance)
    values = [float(evaluation.measure(t, s)) for t, s in measured if t.status == "completed"]
    if not values:
        context.store.set_failed_aside(name)
        check_rollouts([t for t, _ in measured])
    context.store.save_fact(f"success_{name}", sum(values) / len(values))
    context.store.save_fact(f"masked_{name}", len(measured) - len(values))
    context.store.save_fact(f"seconds_{name}", time.perf_counter() - clock)
    progress.evaluation_done(name, sum(values) / len(values))


async def _roll_out(
    context: RunContext, name: str, scenarios: Sequence[tuple[str, Any]], each: int, advance: Callable[[], None]
) -> list[tuple[Trajectory, Any]]:
    async def one(scenario_id: str, scenario: Any, number: int) -> tuple[Trajectory, Any]:
        trajectory = await context.rollout(_PRIORITY, f"{name}/{scenario_id}/{number}", scenario, scenario_id)
        advance()
        return trajectory, scenario

    with unwrapped_error():
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(i, s, k)) for i, s in scenarios for k in range(each)]
    return [t.result() for t in running]
