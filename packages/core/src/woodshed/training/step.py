"""The steps of a run: a batch, its advantages, one optimizer step, new weights, and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from woodshed.errors import DriftError, RolloutError
from woodshed.rewards.base import Reward
from woodshed.training.report.diagnostics import check_rollouts, drift_unmeasured, step_warnings
from woodshed.training.report.metrics import step_row
from woodshed.training.report.progress import RunProgress
from woodshed.training.rollouts.groups import RunContext, StepGroups, sample_batch
from woodshed.training.rollouts.prefetch import Prefetch, PrioritySemaphore
from woodshed.training.run.store import RunStore
from woodshed.training.step_request import split_stale, step_request
from woodshed.types import StepReport, StepRequest

_log = logging.getLogger("woodshed.training")
_REFUSED = "refused_step"


async def take_steps(stage: RunContext, scenarios: Mapping[str, Any], reward: Reward, progress: RunProgress) -> None:
    """Take every step that the run has not taken yet; rollouts run ahead as far as `max_staleness` allows."""
    config = stage.config
    if put_away := give_up_refused(stage.store, config.loss.drift_stop):
        progress.say(put_away)
    # One batch in flight and no more: those of the next step take the places that this one's stragglers leave.
    batch = config.group_size * min(config.scenarios_per_step, len(scenarios))
    stage = replace(stage, slots=PrioritySemaphore(min(config.max_concurrency, batch)))
    ahead = Prefetch(
        lambda step: sample_batch(stage, step, scenarios, reward, progress),
        steps=config.steps,
        max_staleness=config.max_staleness,
    )
    try:
        for step in range(config.steps):
            if stage.store.step(_step_id(step)) is None:
                clock = time.perf_counter()
                await _take(stage, step, await ahead.take(step), progress, clock)
            progress.step(stage.store.history()[step])
    finally:
        await ahead.stop()


async def _take(stage: RunContext, step: int, batch: StepGroups, progress: RunProgress, clock: float) -> None:
    """Train one batch, for which the run has waited since `clock`."""
    ready, config = time.perf_counter(), stage.config
    _look_at(stage, step, batch, progress)
    fresh, stale = split_stale(batch.groups, version=_version(stage), max_staleness=config.max_staleness)
    if stale:
        _log.warning(
            "step %d: %d of %d groups dropped: they hold tokens of weights more than max_staleness=%d steps old",
            step, len(stale), len(batch.groups), config.max_staleness,
        )  # fmt: skip
    progress.training(step)
    report = await _ask(stage, step, step_request(_step_id(step), fresh, config.score_tolerance, config.advantage))
    row = step_row(step, batch, report, stale=stale, wait_s=ready - clock, train_s=time.perf_counter() - ready)
    stage.store.save_step(step, report, row)
    if (said := drift_unmeasured(stage.store.history())) is not None:
        _log.warning("step %d: %s", step, said)


def _look_at(stage: RunContext, step: int, batch: StepGroups, progress: RunProgress) -> None:
    try:
        check_rollouts([t for g in batch.groups for t in g.trajectories])
    except RolloutError:
        # Once what broke all of them is repaired, the same command samples the step anew.
        stage.store.set_failed_aside(str(step))
        raise
    found = step_warnings(batch.groups, stage.config.score_tolerance)
    if step == 0:
        progress.warn(found)
        stage.store.save_fact("warnings", found)
    elif found:
        _log.warning("step %d: %s", step, "; ".join(found))


async def _ask(stage: RunContext, step: int, request: StepRequest) -> StepReport:
    try:
        return await stage.client.step(stage.policy_name, request)
    except DriftError as error:
        limit = stage.config.loss.drift_stop
        note_refused(stage.store, step, limit)
        raise DriftError(
            f"{error}. The run stops here, with {step} of {stage.config.steps} steps taken and kept. Once the cause is "
            "repaired, run the same command again: it goes on from those and samples this step anew. If so much drift "
            f"is expected, raise LossSettings.drift_stop above {limit:g} first: what was sampled is then trained"
        ) from error


def note_refused(store: RunStore, step: int, drift_stop: float) -> None:
    """Keep for the next process that a step was refused, and above which limit."""
    store.save_fact(_REFUSED, {"step": step, "drift_stop": drift_stop})


def give_up_refused(store: RunStore, drift_stop: float) -> str | None:
    """Put away the rollouts of a step that was refused for drift, unless the limit is higher now, and say so."""
    refused = store.fact(_REFUSED)
    if refused is None:
        return None
    count = store.set_aside(refused["step"]) if drift_stop <= refused["drift_stop"] else 0
    store.save_fact(_REFUSED, None)
    if not count:
        return None
    return (
        f"step {refused['step'] + 1} was refused because engine and trainer drifted apart: its rollouts and those "
        f"sampled ahead ({count}) are put away, never to be trained, and sampled anew"
    )


def _version(stage: RunContext) -> int:
    """Return the version of the weights that the next step changes."""
    history = stage.store.history()
    return int(history[-1]["version"] if history else stage.start_version)


def _step_id(step: int) -> str:
    return f"step-{step:05d}"
