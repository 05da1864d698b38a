"""Evaluation before, between and after the steps: rollouts on held-out scenarios, measured and never trained."""

from __future__ import annotations

import asyncio
import math
import numbers
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from woodshed.errors import ConfigError
from woodshed.training.config import Evaluation, scenario_ids
from woodshed.training.report.diagnostics import check_rollouts
from woodshed.training.report.evaluations import evaluation_name
from woodshed.training.report.interval import interval
from woodshed.training.report.progress import RunProgress
from woodshed.training.report.shared_state import shared_state
from woodshed.training.rollouts.groups import RunContext
from woodshed.training.rollouts.prefetch import unwrapped_error
from woodshed.training.run.fingerprint import content_identity
from woodshed.types import Trajectory

_PRIORITY = -1
"""Priority of evaluation rollouts in the semaphore: before every training step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The held-out rollouts of one evaluation: what each that counts is worth, and which do not count."""

    clusters: tuple[tuple[float, ...], ...]
    """Success of every rollout that counts, by scenario; 0 for one that failed."""
    failed: tuple[Trajectory, ...]
    """Rollouts that count as 0, because their agent failed or took too long."""
    masked: tuple[Trajectory, ...]
    """Rollouts that count nowhere, because the infrastructure failed."""
    by_rollout: Mapping[str, float]
    """Rollout id → success of every rollout that counts."""

    @property
    def values(self) -> tuple[float, ...]:
        """Success of every rollout that counts."""
        return tuple(value for cluster in self.clusters for value in cluster)

    @property
    def success(self) -> float:
        """Mean success of the rollouts that count."""
        return math.fsum(self.values) / len(self.values)

    def __str__(self) -> str:
        """Say how many succeeded, and why others did not: `1 of 10 (9 failed: ValueError)`."""
        whole = all(value in (0.0, 1.0) for value in self.values)
        counted = f"{sum(self.values):g} of {len(self.values)}" if whole else f"mean of {len(self.values)}"
        notes = [_kinds(word, ts) for word, ts in (("failed", self.failed), ("masked", self.masked)) if ts]
        return counted + (f" ({'; '.join(notes)})" if notes else "")


def _kinds(word: str, trajectories: Sequence[Trajectory]) -> str:
    kinds = Counter(t.error.kind for t in trajectories if t.error)
    return f"{len(trajectories)} {word}: " + ", ".join(
        kind if len(kinds) == 1 else f"{count} × {kind}" for kind, count in kinds.most_common()
    )


async def evaluate(
    context: RunContext, evaluation: Evaluation | None, name: str, progress: RunProgress
) -> Sequence[Trajectory]:
    """Measure the current policy, save the mean as `success_NAME` with its figures, and return the rollouts.

    An evaluation that is already saved is skipped, and returns none.

    Raises:
        ConfigError: the measure returned something else than a number.
        RolloutError: every rollout failed.
    """
    if evaluation is None or context.store.fact(f"success_{name}") is not None:
        return ()
    pairs = list(zip(scenario_ids(evaluation.scenarios), evaluation.scenarios, strict=True))
    slot, shown = name.replace("_", "-"), name.replace("_", " ")
    progress.evaluation_started(shown, len(pairs) * evaluation.rollouts_per_scenario)
    clock = time.perf_counter()
    rollouts = await _roll_out(context, slot, pairs, evaluation.rollouts_per_scenario, progress.advance)
    if all(t.status != "completed" for t, _ in rollouts):
        context.store.set_failed_aside(slot)
        check_rollouts([t for t, _ in rollouts])
    measured = measure(evaluation, rollouts)
    if warnings := shared_state([t for t, _ in rollouts])[:1]:
        context.store.add_warnings([f"held-out scenarios, {shown}: {w}" for w in warnings])
        progress.warn(warnings)
    figures = {
        "failed": len(measured.failed),
        "masked": len(measured.masked),
        "rollouts": len(measured.values),
        "interval": interval(measured.clusters),
        "measured": measured.by_rollout,
        "seconds": time.perf_counter() - clock,
        "success": measured.success,  # the last one: with it, the evaluation is done
    }
    for figure, value in figures.items():
        context.store.save_fact(f"{figure}_{name}", value)
    progress.evaluation_done(shown, measured.success, str(measured), interval(measured.clusters))
    return [t for t, _ in rollouts]


async def evaluate_between(
    context: RunContext, evaluation: Evaluation | None, step: int, progress: RunProgress
) -> Sequence[Trajectory]:
    """Measure the policy after `step` steps, if it is time to and more steps follow, and return the rollouts.

    The engine serves that step's weights, and no others until the next step is trained.
    """
    is_time = evaluation is not None and evaluation.every is not None and step % evaluation.every == 0
    if not is_time or step >= context.config.steps:
        return ()
    return await evaluate(context, evaluation, evaluation_name(step), progress)


def measure(evaluation: Evaluation, rollouts: Sequence[tuple[Trajectory, Any]]) -> Measured:
    """Return what held-out rollouts are worth, each given with its scenario. A failure counts as 0.

    Raises:
        ConfigError: the measure returned something else than a number.
    """
    clusters: dict[str, list[float]] = {}
    failed: list[Trajectory] = []
    masked: list[Trajectory] = []
    by_rollout: dict[str, float] = {}
    for trajectory, scenario in rollouts:
        values = clusters.setdefault(trajectory.scenario_id, [])
        if trajectory.status == "completed":
            values.append(_number(evaluation.measure(trajectory, scenario)))
            by_rollout[trajectory.rollout_id] = values[-1]
        elif trajectory.error is not None and trajectory.error.cause == "infrastructure":
            masked.append(trajectory)
        else:
            values.append(0.0)
            by_rollout[trajectory.rollout_id] = 0.0
            failed.append(trajectory)
    return Measured(
        clusters=tuple(tuple(c) for c in clusters.values() if c), failed=tuple(failed), masked=tuple(masked),
        by_rollout=by_rollout,
    )  # fmt: skip


def _number(value: object) -> float:
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    close = getattr(value, "close", None)
    if asyncio.iscoroutine(value) and close is not None:
        close()  # or Python warns that it was never awaited
    raise ConfigError(
        f"Evaluation.measure returned {value!r}, a {type(value).__name__}; expected a finite number, 1 for success and "
        "0 for failure (it is a plain function, not an async one)"
    )


def held_out_warning(scenarios: Sequence[Any], evaluation: Evaluation | None) -> str | None:
    """Return a warning if held-out scenarios are also trained on; an `id` makes no scenario another one."""
    if evaluation is None:
        return None
    trained = {content_identity(s) for s in scenarios}
    named = zip(scenario_ids(evaluation.scenarios), evaluation.scenarios, strict=True)
    both = [scenario_id for scenario_id, s in named if content_identity(s) in trained]
    if not both:
        return None
    return (
        f"{len(both)} of {len(evaluation.scenarios)} held-out scenarios are also trained on ({', '.join(both[:5])}"
        f"{', …' if len(both) > 5 else ''}), so the held-out success says how well they are remembered, not how well "
        "the agent does: hold other scenarios out"
    )


async def _roll_out(
    context: RunContext, slot: str, scenarios: Sequence[tuple[str, Any]], each: int, advance: Callable[[], None]
) -> list[tuple[Trajectory, Any]]:
    async def one(scenario_id: str, scenario: Any, number: int) -> tuple[Trajectory, Any]:
        trajectory = await context.rollout(_PRIORITY, f"{slot}/{scenario_id}/{number}", scenario, scenario_id)
        advance()
        return trajectory, scenario

    with unwrapped_error():
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(i, s, k)) for i, s in scenarios for k in range(each)]
    return [t.result() for t in running]
