"""The loop that a run is: rollouts, judgement, advantages, one optimizer step, new weights, and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from woodshed.capture import RolloutFunction, rollout
from woodshed.engine.client.client import EngineClient
from woodshed.engine.client.config import check_trainer
from woodshed.engine.client.local import ConnectedEngine, Engine, LocalEngine
from woodshed.errors import ConfigError, EngineError
from woodshed.rewards.base import Reward
from woodshed.rewards.cache import SqliteCache
from woodshed.training.config import Evaluation, Policy, TrainConfig, scenario_ids
from woodshed.training.doctor import first_step
from woodshed.training.evaluation import evaluate
from woodshed.training.report.files import write_history, write_summary
from woodshed.training.report.memory_peak import MemoryPeak
from woodshed.training.report.plot import plot
from woodshed.training.report.progress import RunProgress
from woodshed.training.report.summary import Summary, summarise
from woodshed.training.rollouts.groups import RunContext
from woodshed.training.rollouts.prefetch import PrioritySemaphore
from woodshed.training.run.fingerprint import scenarios_identity, stable_repr
from woodshed.training.run.folder import run_folder
from woodshed.training.run.initial_adapter import starting_adapter
from woodshed.training.run.store import RunStore
from woodshed.training.step import take_steps
from woodshed.types import OpenPolicy

VERDICTS = "judge.sqlite"
"""File of a run's verdicts and of what its judges have cost."""


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
    checks: bool = True
    """Make the doctor's quick checks before the first step; one that fails ends the run before any rollout."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other across their classes."""
        advantage, most = self.config.advantage, self.policy.max_tokens
        if most is not None and advantage.penalty(most) == 0 and advantage.overlong_longest is not None:
            raise ConfigError(
                f"AdvantageSettings.overlong_longest={advantage.overlong_longest} with overlong_soft="
                f"{advantage.overlong_soft} never applies: Policy.max_tokens={most} ends every answer before "
                f"the penalty begins. Use overlong_longest={most}"
            )
        if self.config.extra_scenarios and 0 < len(self.scenarios) <= self.config.scenarios_per_step:
            raise ConfigError(
                f"TrainConfig.extra_scenarios is {self.config.extra_scenarios}, but each step already takes all "
                f"{len(self.scenarios)} scenarios (scenarios_per_step={self.config.scenarios_per_step}); give more "
                "scenarios, fewer per step, or extra_scenarios=0"
            )

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
    checks: bool = True,
    config: TrainConfig | None = None,
    **settings: Any,
) -> Run:
    """Let an agent practise on `scenarios` and return the finished run.

    Called again after a crash or Ctrl-C with the same arguments it goes on where it was: every finished rollout is
    trained exactly once. Settings that bound a run and do not define it may then be others: `TrainConfig.limits`.

    Args:
        rollout: function of one scenario that runs the agent (see `woodshed.rollout`).
        scenarios: what to practise on; each needs a unique `id`, or gets its place in the list.
        policy: the model that practises.
        reward: `Ruler(judge=…)`, or `FunctionReward(f)`.
        engine: where the policy is served and trained; `Engine.local()` by default.
        evaluation: held-out scenarios and their truth, measured before and after; never trained.
        run_dir: folder of the run.
        fresh: set an unfinished run in that folder aside.
        checks: make the doctor's quick checks before the first step.
        config: all numbers at once, in place of `settings`.
        **settings: fields of `TrainConfig`.

    Raises:
        ConfigError: something cannot work, said before any work starts.
        EngineError: the engine could not be started or reached, or a step could not be taken; a `DriftError` where
            what it sampled is not what the trainer's policy would say.
        RolloutError: every rollout of a step failed.
        CheckError: a check before the first step failed, so its rollouts would be wasted.
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
        checks=checks,
    ).run()


async def train_async(training: Training, then: Callable[[Run], Awaitable[None]] | None = None) -> Run:
    """Run a training inside an event loop that is already there; see `train`.

    Args:
        training: What to do.
        then: What is left to do when all steps are taken and reported. Only after it does the run count as finished:
            cut off before, the same command comes back to it and trains nothing again.
    """
    function = rollout(training.rollout)
    identity = _identity(training)
    starting_adapter(training.policy, training.engine)  # refused before any work
    if isinstance(training.engine, LocalEngine):
        check_trainer(training.policy.trainer, training.policy.load_in_4bit)
    with run_folder(training.run_dir, name=function.name, fresh=training.fresh) as folder:
        store = RunStore(folder)
        try:
            store.claim(identity, training.config.limits())
            with RunProgress(folder=folder, steps=training.config.steps) as progress:
                summary = await _reported(training, function, store, progress)
                progress.done(summary)
            run = Run(folder=folder, summary=summary, history=tuple(store.history()))
            if then is not None:
                await then(run)
            store.save_fact("finished", True)
        finally:
            store.close()
    return run


async def _reported(training: Training, function: RolloutFunction, store: RunStore, progress: RunProgress) -> Summary:
    """Take all steps on a running engine, and write the report."""
    home = store.folder / "engine"
    cache = SqliteCache(store.folder / VERDICTS)
    try:
        with store.timed(time.perf_counter()):
            async with training.engine.running(
                [training.policy.served()], home=home, progress=progress.engine
            ) as client:
                memory = MemoryPeak(client)
                watch = asyncio.create_task(memory.watch())
                try:
                    await _practise(training, function, client, store, cache, progress)
                    await memory.sample()
                    health = await client.health()
                finally:
                    watch.cancel()
                    with suppress(asyncio.CancelledError):
                        await watch
        history = store.history()
        summary = summarise(
            store, history, health=health, seconds=store.fact("seconds"), peak_rss_mb=memory.peak_mb,
            judge=training.reward, paid_usd=cache.paid_usd(),
        )  # fmt: skip
        write_summary(store.folder, summary.model_dump(mode="json"))
        write_history(store.folder, history)
        plot(store.folder / "plot.png", history, summary)
        return summary
    finally:
        cache.close()


def _identity(training: Training) -> dict[str, Any]:
    measured = training.evaluation
    return {
        "policy": training.policy.model_dump(mode="json"),
        "config": training.config.identity(),
        "reward": stable_repr(training.reward),
        "scenarios": scenarios_identity(training.scenarios),
        "evaluation": measured
        and {
            **scenarios_identity(measured.scenarios),
            "rollouts_per_scenario": measured.rollouts_per_scenario,
        },
    }


async def _practise(
    training: Training,
    function: RolloutFunction,
    client: EngineClient,
    store: RunStore,
    cache: SqliteCache,
    progress: RunProgress,
) -> None:
    """Open the policy, measure, take all steps, measure again."""
    stage = await _open(training, function, client, store)
    reward = training.reward.bound(base_url=client.openai_base_url, api_key=client.api_key, cache=cache)
    if training.checks and store.fact("checks") is None:
        found = await first_step(client, stage.policy_name, stage.policy.sampling(), stage.config.loss, reward)
        progress.warn([f"{f.check}: {f.found}. {f.advice}" for f in found])
        store.save_fact("checks", [f.model_dump() for f in found])
    await evaluate(stage, training.evaluation, "before", progress)
    await take_steps(stage, _by_id(training.scenarios), reward, progress)
    await evaluate(stage, training.evaluation, "after", progress)


def _by_id(scenarios: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(scenario_ids(scenarios), scenarios, strict=True))


async def _open(training: Training, function: RolloutFunction, client: EngineClient, store: RunStore) -> RunContext:
    config, name = training.config, training.policy.served().name
    state = await client.open_policy(
        OpenPolicy(
            name=name,
            run_id=store.run_id(),
            lora=training.policy.lora,
            optimizer=config.optimizer,
            loss=config.loss,
            seed=config.seed,
            trainer=training.policy.trainer,
            load_in_4bit=training.policy.load_in_4bit,
            adapter=starting_adapter(training.policy, training.engine),
        )
    )
    return RunContext(
        function=function,
        client=client,
        store=store,
        policy=training.policy,
        policy_name=name,
        config=config,
        start_version=_start_version(store, state.version),
        slots=PrioritySemaphore(config.max_concurrency),
    )


def _start_version(store: RunStore, version: int) -> int:
    """Return the version before the first step, after a check that the engine has all steps the run has taken.

    Raises:
        EngineError: the engine has lost the run's checkpoints, or is another one.
    """
    history = store.history()
    if history and version < history[-1]["version"]:
        raise EngineError(
            f"the run in {str(store.folder)!r} has trained its policy to version {history[-1]['version']}, but this "
            f"engine knows version {version} of it: its checkpoints are gone, or it is another engine. Go on with the "
            "engine that trained it, or start anew with fresh=True (`--fresh`)"
        )
    if (known := store.fact("start_version")) is None:
        store.save_fact("start_version", known := version)
    return int(known)
