"""The loop that a run is: rollouts, judgement, advantages, one optimizer step, new weights, and again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from etude.capture import RolloutFunction, new_id, rollout
from etude.engine.client import EngineClient
from etude.engine.local import ConnectedEngine, Engine, LocalEngine
from etude.errors import ConfigError
from etude.rewards.advantage import group_advantages
from etude.rewards.cache import SqliteCache
from etude.rewards.function import Reward
from etude.training.config import Evaluation, Policy, TrainConfig, scenario_ids
from etude.training.folder import open_folder
from etude.training.memory import MemoryPeak
from etude.training.progress import Progress
from etude.training.report import Summary, write_report
from etude.training.step import Stage, measure, run_groups
from etude.training.store import RunStore
from etude.training.warnings import check_rollouts, step_warnings
from etude.types import Group, OpenPolicy, StepReport, StepRequest, Trajectory, WeightedRollout

_log = logging.getLogger("etude.training")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished run."""

    folder: Path
    summary: Summary
    history: tuple[dict[str, Any], ...]
    """One row a step: reward, groups, masked rollouts, loss metrics, seconds, weight version."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything a run needs; `.run()` starts it or goes on where it was cut."""

    rollout: RolloutFunction | Any
    scenarios: Sequence[Any]
    policy: Policy
    reward: Reward
    engine: LocalEngine | ConnectedEngine = field(default_factory=Engine.local)
    config: TrainConfig = field(default_factory=TrainConfig)
    evaluation: Evaluation | None = None
    run_dir: Path | str | None = None
    """Folder of the run; None is `runs/NAME` with the rollout function's name."""
    fresh: bool = False
    """Set aside what the folder holds and start anew, instead of going on with an unfinished run."""

    def run(self) -> Run:
        """Train, and return when the run is finished."""
        return asyncio.run(train_async(self))

    def with_overrides(self, *, run_dir: Path | None, fresh: bool, **config: Any) -> Training:
        """Return the same training with some numbers replaced; `None` leaves a number as it is."""
        changed = {k: v for k, v in config.items() if v is not None}
        new = TrainConfig(**{**self.config.model_dump(), **changed}) if changed else self.config
        return replace(self, config=new, run_dir=run_dir or self.run_dir, fresh=fresh or self.fresh)


def train(
    rollout: RolloutFunction | Any,
    scenarios: Sequence[Any],
    *,
    policy: Policy,
    reward: Reward,
    engine: LocalEngine | ConnectedEngine | None = None,
    evaluation: Evaluation | None = None,
    run_dir: Path | str | None = None,
    fresh: bool = False,
    config: TrainConfig | None = None,
    **settings: Any,
) -> Run:
    """Let an agent practise on `scenarios` and return the finished run.

    Called again after a crash or Ctrl-C with
    the same arguments it goes on where it was: every finished rollout is trained exactly once.

    Args:
        rollout: function of one scenario that runs the agent (see `etude.rollout`).
        scenarios: what to practise on; each needs a unique `id`, or gets its place in the list.
        policy: the model that practises.
        reward: `Ruler(judge=…)`, or `FunctionReward(f)`.
        engine: where the policy is served and trained; `Engine.local()` by default.
        evaluation: held-out scenarios and their truth, measured before and after; never trained.
        run_dir: folder of the run.
        fresh: set an unfinished run in that folder aside.
        config: all numbers at once, in place of `settings`.
        **settings: fields of `TrainConfig`.

    Raises:
        ConfigError: something cannot work, said before any work starts.
        EngineError: the engine could not be started or reached, or a step could not be taken.
        RolloutError: every rollout of a step failed.
    """
    if config is not None and settings:
        raise ConfigError(f"pass either config= or single settings, not both; found config and {sorted(settings)}")
    return Training(
        rollout=rollout,
        scenarios=scenarios,
        policy=policy,
        reward=reward,
        engine=engine or Engine.local(),
        config=config or TrainConfig(**settings),
        evaluation=evaluation,
        run_dir=run_dir,
        fresh=fresh,
    ).run()


async def train_async(training: Training) -> Run:
    """Run a training inside an event loop that is already there; see `train`."""
    function = rollout(training.rollout)
    ids = scenario_ids(training.scenarios)
    folder = open_folder(training.run_dir, name=function.name, fresh=training.fresh)
    store = RunStore(folder)
    store.claim(_settings(training, ids))
    started = time.perf_counter()
    with Progress(folder=folder, steps=training.config.steps) as progress:
        async with training.engine.running(
            [training.policy.served()], home=folder / "engine", progress=progress.engine
        ) as client:
            memory = MemoryPeak(client)
            watch = asyncio.create_task(memory.watch())
            try:
                await _loop(training, function, ids, client, store, progress)
                await memory.sample()
                health = await client.health()
            finally:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
        seconds = (store.fact("seconds") or 0.0) + time.perf_counter() - started
        store.save_fact("seconds", seconds)
        store.save_fact("finished", True)
        summary = write_report(store, health=health, seconds=seconds, peak_rss_mb=memory.peak_mb, judge=training.reward)
        progress.done(summary)
    history = tuple(store.history())
    store.close()
    return Run(folder=folder, summary=summary, history=history)


def _run_id(store: RunStore) -> str:
    """Return what the engine knows this run by, the same however often it is gone on with."""
    if (known := store.fact("run_id")) is None:
        store.save_fact("run_id", known := new_id())
    return str(known)


def _settings(training: Training, ids: Sequence[str]) -> dict[str, Any]:
    return {
        "policy": training.policy.model_dump(mode="json"),
        "config": training.config.model_dump(mode="json"),
        "reward": repr(training.reward),
        "scenarios": list(ids),
    }


async def _loop(
    training: Training,
    function: RolloutFunction,
    ids: Sequence[str],
    client: EngineClient,
    store: RunStore,
    progress: Progress,
) -> None:
    config = training.config
    name = training.policy.served().name
    await client.open_policy(
        OpenPolicy(
            name=name,
            run_id=_run_id(store),
            lora=training.policy.lora,
            optimizer=config.optimizer,
            loss=config.loss,
            seed=config.seed,
        )
    )
    stage = Stage(
        function=function, client=client, store=store, policy=training.policy, policy_name=name, config=config,
        slots=asyncio.Semaphore(config.max_concurrency),
    )  # fmt: skip
    reward = training.reward.bound(
        base_url=client.openai_base_url, api_key=client.api_key, cache=SqliteCache(store.folder / "judge.sqlite")
    )
    await _evaluate(stage, training.evaluation, "before", progress)
    scenario_of = dict(zip(ids, training.scenarios, strict=True))
    for step in range(config.steps):
        if store.step(_step_id(step)) is None:
            batch = [(i, scenario_of[i]) for i in batch_ids(ids, step, config)]
            await _one_step(stage, step, batch, reward, progress)
        progress.step(store.history()[-1])
    await _evaluate(stage, training.evaluation, "after", progress)


async def _one_step(
    stage: Stage, step: int, batch: Sequence[tuple[str, Any]], reward: Reward, progress: Progress
) -> None:
    clock = time.perf_counter()
    progress.rollouts(step, len(batch) * stage.config.group_size)
    groups = await run_groups(stage, step, batch, reward, on_rollout=progress.rollout, on_group=progress.group)
    rolled = time.perf_counter()
    members = [t for g in groups for t in g.trajectories]
    check_rollouts(members)
    found = step_warnings(groups, stage.config.score_tolerance)
    if step == 0:
        progress.warn(found)
        stage.store.save_fact("warnings", found)
    elif found:
        _log.warning("step %d: %s", step, "; ".join(found))
    request = step_request(_step_id(step), groups, stage.config.score_tolerance)
    report = await stage.client.step(stage.policy_name, request)
    row = _row(step, groups, report, rollout_s=rolled - clock, train_s=time.perf_counter() - rolled)
    stage.store.save_step(step, report, row)


def step_request(step_id: str, groups: Sequence[Group], tolerance: float) -> StepRequest:
    """Return the step's rollouts with their group-relative advantages; masked ones are left out, never rewarded 0."""
    weighted = []
    for group in groups:
        if group.judgement is None or group.judgement.error is not None:
            continue
        scores = {s.rollout_id: s.value for s in group.judgement.scores}
        advantages = group_advantages(scores, tolerance=tolerance)
        for trajectory in group.trajectories:
            value = advantages.values.get(trajectory.rollout_id)
            if value is None or trajectory.status != "completed":
                continue
            thrown_away = tuple(c.tokens.call_id for c in trajectory.calls if c.note is not None and c.note.superseded)
            weighted.append(
                WeightedRollout(rollout_id=trajectory.rollout_id, advantage=value, untrained_call_ids=thrown_away)
            )
    return StepRequest(step_id=step_id, rollouts=tuple(weighted))


def batch_ids(ids: Sequence[str], step: int, config: TrainConfig) -> list[str]:
    """Return the scenarios of a step: epochs over all of them, each epoch shuffled by the run's seed."""
    count = min(config.scenarios_per_step, len(ids))
    first = step * count
    chosen: list[str] = []
    for place in range(first, first + count):
        epoch, offset = divmod(place, len(ids))
        order = random.Random(f"{config.seed}/{epoch}").sample(list(ids), len(ids))
        chosen.append(order[offset])
    return chosen if len(set(chosen)) == count else _distinct(chosen, ids, config.seed, step)


def _distinct(chosen: Sequence[str], ids: Sequence[str], seed: int, step: int) -> list[str]:
    """Where a batch straddles two epochs and repeats a scenario, replace the repeats."""
    unique = list(dict.fromkeys(chosen))
    rest = [i for i in ids if i not in unique]
    return unique + random.Random(f"{seed}/{step}/fill").sample(rest, len(chosen) - len(unique))


def _step_id(step: int) -> str:
    return f"step-{step:05d}"


def _row(step: int, groups: Sequence[Group], report: StepReport, *, rollout_s: float, train_s: float) -> dict[str, Any]:
    members = [t for g in groups for t in g.trajectories]
    verdicts = [g.judgement for g in groups if g.judgement is not None]
    scores = [s.value for v in verdicts for s in v.scores]
    sampled = sum(len(m.token_ids) for t in members for c in t.calls for m in c.tokens.completions)
    return {
        "step": step,
        "reward": sum(scores) / len(scores) if scores else None,
        "rollouts": len(members),
        "masked": sum(t.status != "completed" for t in members),
        "unjudged_groups": sum(v.error is not None for v in verdicts),
        "judge_requests": sum(v.requests for v in verdicts),
        "judge_tokens": sum(v.prompt_tokens + v.completion_tokens for v in verdicts),
        "judge_cost_usd": sum(v.cost_usd or 0.0 for v in verdicts),
        "calls": sum(len(t.calls) for t in members),
        "sampled_tokens": sampled,
        "tokens_per_s": sampled / rollout_s if rollout_s else 0.0,
        "rollout_s": rollout_s,
        "train_s": train_s,
        "version": report.version,
        "trained": report.trained,
        "quarantined": len(report.quarantined),
        **{f"train/{k}": v for k, v in report.metrics.items()},
    }


async def _evaluate(stage: Stage, evaluation: Evaluation | None, name: str, progress: Progress) -> None:
    if evaluation is None or stage.store.fact(f"success_{name}") is not None:
        return
    pairs = list(zip(scenario_ids(evaluation.scenarios), evaluation.scenarios, strict=True))
    progress.measuring(name, len(pairs) * evaluation.rollouts_per_scenario)
    clock = time.perf_counter()
    measured = await measure(stage, name, pairs, evaluation.rollouts_per_scenario, progress.rollout)
    finished: list[tuple[Trajectory, Any]] = [(t, s) for t, s in measured if t.status == "completed"]
    values = [float(evaluation.measure(t, s)) for t, s in finished]
    if not values:
        check_rollouts([t for t, _ in measured])
    stage.store.save_fact(f"success_{name}", sum(values) / len(values))
    stage.store.save_fact(f"masked_{name}", len(measured) - len(values))
    stage.store.save_fact(f"seconds_{name}", time.perf_counter() - clock)
    progress.measured(name, sum(values) / len(values))
