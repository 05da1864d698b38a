"""A training run from start to finish: open the engine and the policy, evaluate, take all steps, write the report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.capture import RolloutFunction, rollout
from woodshed.engine.client.client import EngineClient
from woodshed.engine.client.config import check_trainer
from woodshed.engine.client.local import ConnectedEngine, Engine, LocalEngine
from woodshed.errors import ConfigError
from woodshed.rewards.base import Reward
from woodshed.rewards.cache import SqliteCache
from woodshed.rewards.prepare import is_undecided
from woodshed.training.config import Evaluation, Policy, TrainConfig, check_kinds, scenarios_by_id
from woodshed.training.doctor import first_step_checks
from woodshed.training.evaluation import evaluate, held_out_warning
from woodshed.training.event_loop import run_to_end
from woodshed.training.finished import (
    Run,
    as_run,
    finished_run,
    refuse_fewer_steps,
    refuse_lost_store,
    versions_to_keep,
)
from woodshed.training.on_step import OnStep, check_on_step
from woodshed.training.open_policy import open_policy
from woodshed.training.open_workers import open_workers
from woodshed.training.report.evaluations import go_on, is_stopped
from woodshed.training.report.files import write_history, write_summary
from woodshed.training.report.plot import plot
from woodshed.training.report.progress import RunProgress
from woodshed.training.report.step_line import score_name
from woodshed.training.report.summary import Summary, summarise
from woodshed.training.rollouts.ray_pool import RayPool
from woodshed.training.rollouts.ray_workers import RayWorkers, check_workers
from woodshed.training.run.adapters import take_home
from woodshed.training.run.fingerprint import run_identity
from woodshed.training.run.folder import run_folder
from woodshed.training.run.initial_adapter import initial_adapter
from woodshed.training.run.judge_modes import with_modes
from woodshed.training.run.source import Source
from woodshed.training.run.storage import storage
from woodshed.training.run.store import RunStore
from woodshed.training.run.totals import RunTotals
from woodshed.training.step import take_steps
from woodshed.training.track.names import check_installed, tracker_names
from woodshed.training.track.processes import behind, tracking

VERDICTS = "judge.sqlite"
"""File in the run's folder with cached verdicts and judge payments."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything a run needs. `.run()` starts it, or resumes it after an interruption or with more steps."""

    rollout: RolloutFunction | Any
    scenarios: Sequence[Any]
    policy: Policy
    reward: Reward
    engine: LocalEngine | ConnectedEngine = field(default_factory=Engine.local)
    config: TrainConfig = field(default_factory=TrainConfig)
    evaluation: Evaluation | None = None
    run_dir: Path | str | None = None
    """Folder of the run; None means `runs/NAME` with the rollout function's name, or `runs/NAME-FILE` if a function of
    another file has taken that."""
    fresh: bool = False
    """Start a new run instead of the one in the folder, which is renamed."""
    checks: bool = True
    """Run the doctor's quick checks before the first step. A failed check stops the run before any rollout."""
    track: str | Sequence[str] = ()
    """Trackers that get every row of the run: any of `wandb`, `mlflow`, `tensorboard`, `trackio`, as a list or with
    commas. What one of them does never harms or delays the run (docs/trackers.md)."""
    on_step: OnStep | None = None
    """Called with the row of each step once it is stored, sync or async; a sync one runs in a thread, and the next step
    begins when it has returned. If it raises, the run stops with that exception, and can be resumed after that step.
    A resumed run doesn't call it again for steps that were taken before."""
    quiet: bool = False
    """Print nothing; warnings go to the log `woodshed.training`."""
    workers: RayWorkers | None = None
    """Run the agent in Ray actors; None runs it in this process. May change when a run is resumed."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other, or are something else than what they are called."""
        check_kinds(self.scenarios, self.policy, self.reward)
        check_on_step(self.on_step)
        check_workers(self.workers)
        tracker_names(self.track)
        advantage, max_tokens = self.config.advantage, self.policy.max_tokens
        if max_tokens is not None and advantage.penalty(max_tokens) == 0 and advantage.overlong_longest is not None:
            raise ConfigError(
                f"AdvantageSettings.overlong_longest={advantage.overlong_longest} with overlong_soft="
                f"{advantage.overlong_soft} never applies: Policy.max_tokens={max_tokens} ends every answer before "
                f"the penalty begins. Use overlong_longest={max_tokens}"
            )
        if self.config.extra_scenarios and 0 < len(self.scenarios) <= self.config.scenarios_per_step:
            raise ConfigError(
                f"TrainConfig.extra_scenarios is {self.config.extra_scenarios}, but each step already takes all "
                f"{len(self.scenarios)} scenarios (scenarios_per_step={self.config.scenarios_per_step}); give more "
                "scenarios, fewer per step, or extra_scenarios=0"
            )

    def run(self) -> Run:
        """Train, and return when the run is finished. Inside a running event loop it uses a thread of its own."""
        return run_to_end(self.run_async())

    async def run_async(self, then: Callable[[Run], Awaitable[None]] | None = None) -> Run:
        """Train inside the running event loop; see `woodshed.train`.

        Args:
            then: Called with the run after all steps and the report. The run counts as finished only afterwards: if it
                is interrupted before, the same command calls it again without repeating any step. A run that was
                finished before is returned without it.
        """
        return await _run(self, then)

    def with_overrides(self, *, run_dir: Path | None, fresh: bool, **config: Any) -> Training:
        """Return a copy with some settings replaced; `None` keeps a setting."""
        overrides = {k: v for k, v in config.items() if v is not None}
        new = TrainConfig(**{**self.config.model_dump(), **overrides}) if overrides else self.config
        return replace(self, config=new, run_dir=run_dir or self.run_dir, fresh=fresh or self.fresh)


async def _run(training: Training, then: Callable[[Run], Awaitable[None]] | None) -> Run:
    names = tracker_names(training.track)
    check_installed(names)
    console = Console(soft_wrap=True, quiet=training.quiet)
    function = rollout(training.rollout)
    identity = run_identity(
        training.policy, training.config, training.reward, training.scenarios, training.evaluation
    )  # fmt: skip
    initial_adapter(training.policy, training.engine)  # raises before any work starts
    if isinstance(training.engine, LocalEngine):
        check_trainer(training.policy.trainer, training.policy.load_in_4bit)
    source = Source.of(function.function)
    with run_folder(
        training.run_dir, name=function.name, fresh=training.fresh, source=source, console=console
    ) as folder:
        store = RunStore(folder)
        try:
            refuse_lost_store(store)
            refuse_fewer_steps(store, training.config.steps)
            store.claim(identity, training.config.limits(), rollout=source.described(folder.parent))
            progress = RunProgress(
                folder=folder, steps=training.config.steps, fresh=training.fresh, console=console,
                scored=score_name(training.reward),
            )  # fmt: skip
            finished = finished_run(store, training.config.steps, _patience(training), console=console)
            if finished is not None:
                async with tracking(behind(names, store), store, progress.message):
                    return finished
            async with tracking(names, store, progress.message):
                with storage(folder), progress:
                    summary = await _run_and_report(training, function, store, progress)
                    progress.done(summary)
                run = as_run(store, summary)
                if then is not None:
                    await then(run)
                store.save_fact("finished", True)
        finally:
            store.close()
    return run


async def _run_and_report(
    training: Training, function: RolloutFunction, store: RunStore, progress: RunProgress
) -> Summary:
    """Start the engine, take all steps and write the report."""
    home = store.folder / "engine"
    cache = SqliteCache(store.folder / VERDICTS)
    totals = RunTotals(store)
    try:
        served = training.policy.served().model_copy(update={"lora_slots": training.config.max_staleness + 2})
        async with (
            totals.counting(),
            open_workers(
                training.workers, function, training.scenarios, training.evaluation, store, progress
            ) as workers,
            AsyncExitStack() as stack,
        ):
            with progress.phase("starting the engine"):
                engine = training.engine.running([served], home=home, progress=progress.engine)
                client = await stack.enter_async_context(engine)
            await stack.enter_async_context(totals.of(client))
            if workers is not None:
                await workers.reach(client.url)
            await _run_steps(training, function, client, workers, store, cache, progress)
            history = store.history()
            versions = [version for version in versions_to_keep(store, history) if version is not None]
            for fetched in await take_home(client, store, training.policy.served().name, versions):
                progress.message(f"fetched the LoRA from the engine: {fetched}")
            health = await totals.sample(client)
            if isinstance(training.engine, LocalEngine):
                with progress.phase("stopping the engine"):
                    await stack.aclose()
        summary = summarise(
            store, history, health=health, seconds=totals.seconds, peak_rss_mb=totals.peak_rss_mb,
            judge=training.reward, paid_usd=cache.paid_usd(),
        )  # fmt: skip
        with progress.phase("writing figures and plot"):
            write_summary(store.folder, summary.model_dump(mode="json"))
            write_history(store.folder, history)
            plot(store.folder / "plot.png", history, summary, scored=progress.scored)
        return summary
    finally:
        cache.close()


async def _run_steps(
    training: Training,
    function: RolloutFunction,
    client: EngineClient,
    workers: RayPool | None,
    store: RunStore,
    cache: SqliteCache,
    progress: RunProgress,
) -> None:
    """Open the policy, evaluate, take all steps and evaluate between them as asked, evaluate again."""
    with progress.phase("loading the policy to train"):
        context = await open_policy(
            client,
            training.policy,
            training.config,
            adapter=initial_adapter(training.policy, training.engine),
            function=function,
            store=store,
            workers=workers,
        )
    progress.warn(context.trainer_warnings)
    is_over = is_stopped(store, training.config.steps, _patience(training))
    if (taken := len(store.history())) < training.config.steps and not is_over:
        go_on(store)
        if store.fact("finished"):
            progress.message(f"the run was finished after {taken} steps, and goes on from its last checkpoint")
        store.reopen()
    scenarios = scenarios_by_id(training.scenarios)
    bound = training.reward.bound(
        base_url=client.openai_base_url, api_key=client.api_key, cache=cache, scenarios=scenarios
    )
    with progress.phase("choosing the judge's mode") if is_undecided(bound) else nullcontext():
        reward = await with_modes(bound, store)
    if training.checks and store.fact("checks") is None:
        with progress.phase("checking engine, template, weights and judge"):
            warnings = await first_step_checks(
                client, context.policy_name, context.policy.sampling(), context.config.loss, reward
            )
        progress.warn([f"{f.check}: {f.found}. {f.advice}" for f in warnings])
        store.save_fact("checks", [f.model_dump() for f in warnings])
    if (warning := held_out_warning(training.scenarios, training.evaluation)) is not None:
        store.add_warnings([warning])
        progress.warn([warning])
    before = await evaluate(context, training.evaluation, "before", progress)
    await take_steps(
        context, scenarios, reward, progress, evaluation=training.evaluation, before=before, on_step=training.on_step
    )
    if store.fact("success_after") is None:
        store.close_with(len(store.history()))
    await evaluate(context, training.evaluation, "after", progress)


def _patience(training: Training) -> int | None:
    return training.evaluation.patience if training.evaluation is not None else None
