"""The steps of a run: sample groups, compute advantages, take one optimizer step."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from woodshed.errors import DriftError, RolloutError
from woodshed.rewards.base import Reward
from woodshed.training.config import Evaluation
from woodshed.training.doctor.drift_probe import drift_by_probe, has_fresh_token
from woodshed.training.evaluation import evaluate_between
from woodshed.training.on_step import OnStep, called
from woodshed.training.report.diagnostics import check_rollouts, drift_unmeasured, late_calls, step_warnings
from woodshed.training.report.evaluations import best, evaluations, is_stopped, stop_early
from woodshed.training.report.metrics import step_row
from woodshed.training.report.progress import RunProgress
from woodshed.training.report.signal import nothing_trained
from woodshed.training.rollouts.groups import RunContext, StepGroups, sample_groups
from woodshed.training.rollouts.prefetch import Prefetch, PrioritySemaphore
from woodshed.training.run.store import RunStore
from woodshed.training.step_request import is_filtered, split_stale, step_request
from woodshed.training.watch import RunWatch
from woodshed.types import StepReport, StepRequest, Trajectory

_log = logging.getLogger("woodshed.training")
_REFUSED = "refused_step"


async def take_steps(
    context: RunContext,
    scenarios: Mapping[str, Any],
    reward: Reward,
    progress: RunProgress,
    *,
    evaluation: Evaluation | None = None,
    before: Sequence[Trajectory] = (),
    on_step: OnStep | None = None,
) -> None:
    """Take every step that the run has not taken yet. Rollouts are prefetched as far as `max_staleness` allows.

    Between steps, success is measured as `evaluation` asks; meanwhile prefetching goes on. Its patience may end the run
    early. `before` are rollouts of this process whose text no attempt may read, such as those of an evaluation.
    `on_step` is called with the row of each step that is taken here; what it raises ends the steps.

    Raises:
        NothingToLearn: too many steps in a row trained nothing.
    """
    config = context.config
    if notice := discard_refused_step(context.store, config.loss.drift_stop):
        progress.message(notice)
    # At most one step's worth of rollouts in flight: the next step's use the permits that this step's slow ones leave.
    rollouts_per_step = config.group_size * min(config.scenarios_per_step, len(scenarios))
    whole, context = (
        context,
        replace(
            context,
            semaphore=PrioritySemaphore(min(config.max_concurrency, rollouts_per_step), within=context.semaphore),
        ),
    )
    patience = evaluation.patience if evaluation is not None else None
    if is_stopped(context.store, config.steps, patience):
        return
    taken = _measurable(context.store)
    watch = RunWatch(stop_after=config.stop_after_flat_steps, previous=before)
    prefetch = Prefetch(
        lambda step: sample_groups(context, step, scenarios, reward, progress),
        steps=config.steps,
        max_staleness=config.max_staleness,
    )
    try:
        for step in range(config.steps):
            if context.store.step(_step_id(step)) is None:
                clock = time.perf_counter()
                idle = await _train_step(context, step, await prefetch.take(step), progress, watch, clock)
                progress.step_done(context.store.history()[step])
                await called(on_step, context.store.history()[step])
                watch.step_taken(step, idle, left=config.steps - step - 1)
            else:
                progress.step_done(context.store.history()[step])
            if step + 1 < taken:
                continue  # the weights after it are not served any more
            watch.add(await evaluate_between(whole, evaluation, step + 1, progress))
            if step + 1 < config.steps and (reason := stop_early(context.store, patience, config.steps)) is not None:
                progress.message(reason)
                return
    finally:
        await prefetch.stop()


def _measurable(store: RunStore) -> int:
    """Return the first number of steps after which success can still be measured: that of the weights served now."""
    history, served = store.history(), store.fact("engine_version")
    return len(history) + (bool(history) and served is not None and served != history[-1]["version"])


async def _train_step(
    context: RunContext, step: int, sampled: StepGroups, progress: RunProgress, watch: RunWatch, clock: float
) -> str | None:
    """Train the sampled groups, and return why nothing was trained, if so.

    `clock` is when the run began to wait for them.
    """
    ready, config = time.perf_counter(), context.config
    _check_groups(context, step, sampled, progress, watch)
    version = _version(context)
    fresh, stale = split_stale(sampled.groups, version=version, max_staleness=config.max_staleness)
    if stale:
        _log.warning(
            "step %d: %d of %d groups dropped: they hold tokens of weights more than max_staleness=%d steps old",
            step + 1, len(stale), len(sampled.groups), config.max_staleness,
        )  # fmt: skip
    progress.training_started(step)
    request = step_request(_step_id(step), fresh, config.score_tolerance, config.advantage)
    top = best(evaluations(context.store, context.store.history()))
    kept = {"keep_checkpoints": config.keep_checkpoints, "keep_version": top.version if top is not None else None}
    learning = {r.rollout_id for r in request.rollouts if r.advantage or r.call_advantages}
    is_measured = not learning or has_fresh_token(fresh, learning, version)
    report = await _request_step(context, step, request.model_copy(update=kept), probe=not is_measured)
    row = step_row(
        step, sampled, report, stale=stale, wait_s=ready - clock, train_s=time.perf_counter() - ready,
        settings=config.advantage,
    )  # fmt: skip
    context.store.save_step(step, report, row)
    unmeasured = drift_unmeasured(context.store.history())
    for warning in filter(None, (*report.warnings, _left_out(report), unmeasured)):
        _log.warning("step %d: %s", step + 1, warning)
        context.store.add_warnings([f"step {step + 1}: {warning}"])
    if report.trained or not fresh:  # the next step's groups are fresh again
        return None
    return nothing_trained(fresh, report, config.score_tolerance)


def _left_out(report: StepReport) -> str | None:
    """Return that the swap went on without some replicas; None if all took part."""
    if not (missing := int(report.metrics.get("replicas_left_out", 0))):
        return None
    return (
        f"the swap to version {report.version} went on without {missing} of the policy's replicas, because they are "
        "down or do not answer; until they have caught up the others take their calls (`woodshed engine status` and "
        "the engine's log name them)"
    )


def _check_groups(context: RunContext, step: int, sampled: StepGroups, progress: RunProgress, watch: RunWatch) -> None:
    members = [t for g in sampled.groups for t in g.trajectories]
    try:
        check_rollouts(members)
    except RolloutError:
        # Once the cause is fixed, the same command samples the step again.
        context.store.set_failed_aside(str(step))
        raise
    settings = context.config.advantage
    if filtered := sum(is_filtered(t, settings) for t in members):
        _log.info("step %d: %d of %d rollouts masked by overlong filtering", step + 1, filtered, len(members))
    shared = watch.shared_state(members)
    warnings = [*shared, *step_warnings(sampled.groups, context.config.score_tolerance, settings), *late_calls()]
    context.store.add_warnings(warnings if step == 0 else [f"step {step + 1}: {w}" for w in warnings])
    if step == 0:
        progress.warn(warnings)
    elif warnings:
        _log.warning("step %d: %s", step + 1, "; ".join(warnings))


async def _request_step(context: RunContext, step: int, request: StepRequest, *, probe: bool) -> StepReport:
    """Take the step; with `probe`, its drift is measured on a short answer of its own."""
    client, policy = context.client, context.policy_name
    try:
        drift = await drift_by_probe(client, policy, context.policy.sampling(), context.config.loss) if probe else {}
        report = await client.step(policy, request)
        # The trainer's own measure, over all fresh tokens, is the better one.
        return report.model_copy(update={"metrics": {**drift, **report.metrics}})
    except DriftError as error:
        limit = context.config.loss.drift_stop
        save_refused_step(context.store, step, limit)
        raise DriftError(
            f"{error}. The run stops here, with {step} of {context.config.steps} steps taken and kept. Once the cause "
            "is fixed, run the same command again: it continues after them and samples this step again. If so much "
            f"drift is expected, raise LossSettings.drift_stop above {limit:g} first: its rollouts are then trained"
        ) from error


def save_refused_step(store: RunStore, step: int, drift_stop: float) -> None:
    """Save that a step was refused for drift above the limit `drift_stop`, for the process that resumes the run."""
    store.save_fact(_REFUSED, {"step": step, "drift_stop": drift_stop})


def discard_refused_step(store: RunStore, drift_stop: float) -> str | None:
    """Discard the rollouts of a step that was refused for drift, unless the limit is higher now; return a notice."""
    refused = store.fact(_REFUSED)
    if refused is None:
        return None
    count = store.set_aside(refused["step"]) if drift_stop <= refused["drift_stop"] else 0
    store.save_fact(_REFUSED, None)
    if not count:
        return None
    return (
        f"step {refused['step'] + 1} was refused because engine and trainer drifted apart: its rollouts and the "
        f"prefetched ones ({count}) will not be trained; they are sampled again"
    )


def _version(context: RunContext) -> int:
    """Return the version of the weights that the next step changes."""
    history = context.store.history()
    return int(history[-1]["version"] if history else context.start_version)


def _step_id(step: int) -> str:
    return f"step-{step:05d}"
