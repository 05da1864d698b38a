"""Supervised fine-tuning on finished conversations; a later run can start from its adapter."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.engine.client.local import ConnectedEngine, Engine, LocalEngine
from woodshed.errors import ConfigError
from woodshed.training.config import Policy
from woodshed.training.event_loop import run_to_end
from woodshed.training.on_step import OnStep, check_on_step
from woodshed.training.report.held_out_loss import BEFORE
from woodshed.training.run.folder import run_folder
from woodshed.training.run.initial_adapter import initial_adapter
from woodshed.training.run.storage import storage
from woodshed.training.run.store import RunStore
from woodshed.training.run.totals import RunTotals
from woodshed.training.sft.config import SftConfig
from woodshed.training.sft.conversation_file import examples_of_file
from woodshed.training.sft.dataset import Choice, SftExample, examples_of_run, run_settings
from woodshed.training.sft.progress import SftProgress
from woodshed.training.sft.summary import SftSummary
from woodshed.training.sft.trainer import SftTrainer
from woodshed.training.track.names import check_installed, tracker_names
from woodshed.training.track.processes import behind, tracking


@dataclass(frozen=True, kw_only=True, slots=True)
class SftRun:
    """A finished SFT."""

    folder: Path
    adapter: str
    """Folder of the LoRA, for `Policy(adapter=...)`."""
    summary: SftSummary
    history: tuple[dict[str, Any], ...]
    """One row per optimizer step."""


@dataclass(frozen=True, kw_only=True)
class SftTraining:
    """Everything SFT needs. `.run()` starts it, or resumes it after an interruption."""

    source: Path
    policy: Policy
    choice: Choice = field(default_factory=Choice)
    engine: LocalEngine | ConnectedEngine = field(default_factory=Engine.local)
    config: SftConfig = field(default_factory=SftConfig)
    run_dir: Path | str | None = None
    fresh: bool = False
    track: str | Sequence[str] = ()
    """As `Training.track`."""
    on_step: OnStep | None = None
    """As `Training.on_step`."""

    def __post_init__(self) -> None:
        """Refuse what is no function, and names that are no tracker's."""
        check_on_step(self.on_step)
        tracker_names(self.track)

    def run(self) -> SftRun:
        """Train, and return when finished. Inside a running event loop it uses a thread of its own."""
        return run_to_end(sft_async(self))


def sft(
    source: Path | str,
    *,
    policy: Policy | str | None = None,
    min_score: float | None = None,
    top: int | None = None,
    engine: LocalEngine | ConnectedEngine | None = None,
    run_dir: Path | str | None = None,
    fresh: bool = False,
    track: str | Sequence[str] = (),
    on_step: OnStep | None = None,
    config: SftConfig | None = None,
    **settings: Any,
) -> SftRun:
    """Fine-tune a policy on finished conversations and return the LoRA that a run can start from.

    Called again with the same arguments after a crash or Ctrl-C, it resumes; one that is finished is returned
    as it is.

    Example:
        `tuned = woodshed.sft("runs/support", min_score=0.8)`, then `woodshed.Policy(model, adapter=tuned.adapter)`.

    Args:
        source: folder of a `woodshed train` run, whose best rollouts are trained on; or a `.jsonl` file of
            conversations, whose assistant messages all are.
        policy: the policy, or its model's name; by default that of the run, if `source` is a run.
        min_score: lowest score of a rollout to train on.
        top: best rollouts of each group whose scores differ; 1 if neither `top` nor `min_score` is given.
        engine: where the policy is served and trained; `Engine.local()` by default.
        run_dir: folder of this SFT; `runs/sft` by default.
        fresh: start anew; the SFT in that folder is renamed.
        track: trackers that get every row and held-out loss: any of `wandb`, `mlflow`, `tensorboard`, `trackio`.
        on_step: called with the row of each step, once it is stored; see `Training.on_step`.
        config: all settings at once, instead of `settings`.
        **settings: fields of `SftConfig`.

    Raises:
        ConfigError: an example cannot be used; the message names the line of a file, or shows the scores of a run.
        EngineError: the engine could not be started or reached, or a step failed.
    """
    if config is not None and settings:
        raise ConfigError(f"pass either config= or single settings, not both; found config and {sorted(settings)}")
    return sft_training(
        source, policy=policy, choice=Choice(min_score=min_score, top=top), engine=engine or Engine.local(),
        config=config or SftConfig(**settings), run_dir=run_dir, fresh=fresh, track=track, on_step=on_step,
    ).run()  # fmt: skip


def sft_training(source: Path | str, *, policy: Policy | str | None, **parts: Any) -> SftTraining:
    """Return the training for `source` with its policy: the one given, or the run's own."""
    source = Path(source)
    given = Policy(policy) if isinstance(policy, str) else policy
    if _is_file(source):
        if given is None:
            raise ConfigError(f"{str(source)!r} is a file of conversations, which names no model; pass policy=…")
        return SftTraining(source=source, policy=given, **parts)
    own = Policy(**run_settings(source)["policy"])
    if given is not None and given.model != own.model:
        raise ConfigError(
            f"the run in {str(source)!r} trained {own.model!r}, and {given.model!r} is asked for: its rollouts are "
            "tokens of its own model. Leave the model out, or pass a .jsonl file of conversations"
        )
    return SftTraining(source=source, policy=own if isinstance(policy, str) or given is None else given, **parts)


def _is_file(source: Path) -> bool:
    return source.is_file() or source.suffix == ".jsonl"


async def sft_async(training: SftTraining) -> SftRun:
    """Run SFT inside an existing event loop; see `sft`."""
    names = tracker_names(training.track)
    check_installed(names)
    examples = (
        examples_of_file(training.source)
        if _is_file(training.source)
        else examples_of_run(training.source, training.choice)
    )
    held = held_out_examples(examples, training.config)
    adapter = initial_adapter(training.policy, training.engine)
    with run_folder(training.run_dir, name="sft", fresh=training.fresh) as folder:
        store = RunStore(folder)
        try:
            _discard_unstarted(store)
            store.claim(_identity(training, examples))
            progress = SftProgress(folder=folder, epochs=training.config.epochs, fresh=training.fresh)
            if store.fact("finished"):
                async with tracking(behind(names, store), store, progress.message):
                    return _finished(store)
            async with tracking(names, store, progress.message):
                with storage(folder), progress:
                    summary = await _trained(training, examples, held, adapter, store, progress)
                    progress.finished(summary, training.policy)
            history = tuple(store.history())
        finally:
            store.close()
    return SftRun(folder=folder, adapter=summary.adapter, summary=summary, history=history)


async def _trained(
    training: SftTraining,
    examples: Sequence[SftExample],
    held: frozenset[int],
    adapter: str | None,
    store: RunStore,
    progress: SftProgress,
) -> SftSummary:
    home = store.folder / "engine"
    totals = RunTotals(store)
    async with (
        totals.counting(),
        training.engine.running([training.policy.served()], home=home, progress=progress.engine) as client,
    ):
        trainer = SftTrainer(
            client=client,
            store=store,
            policy=training.policy,
            config=training.config,
            source=training.source,
            progress=progress,
            on_step=training.on_step,
        )
        await trainer.import_examples(examples)
        await trainer.open(adapter)
        await trainer.train([k for k in range(len(examples)) if k not in held], sorted(held))
        return await trainer.finish(examples, held, seconds=totals.seconds)


def _finished(store: RunStore) -> SftRun:
    """Return an SFT that is finished, and say so in one line."""
    file = store.folder / "summary.json"
    try:
        summary = SftSummary.model_validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the SFT is finished, but its figures {str(file)!r} cannot be read: {error}") from error
    Console(soft_wrap=True).print(
        f"the SFT in {store.folder} is finished; figures: {file}, LoRA: {summary.adapter}. Nothing was trained now. To "
        "train anew, pass fresh=True (`--fresh`), which renames this folder, or another folder (run_dir=, `--run-dir`)",
        markup=False,
        highlight=False,
    )
    return SftRun(folder=store.folder, adapter=summary.adapter, summary=summary, history=tuple(store.history()))


def _discard_unstarted(store: RunStore) -> None:
    """Let an SFT that took no step, such as one whose file was refused, start again with other settings."""
    if not store.history():
        (store.folder / "config.json").unlink(missing_ok=True)
        for name in ("run_id", "tokens", BEFORE):
            store.save_fact(name, None)


def _identity(training: SftTraining, examples: Sequence[SftExample]) -> dict[str, Any]:
    """Return the settings and data that must be unchanged to resume."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.scenario_id, example.messages, example.tools)).encode())
        digest.update(repr([(c.prompt_ids, [m.token_ids for m in c.completions]) for c in example.calls]).encode())
    return {
        "policy": training.policy.identity(),
        "sft": training.config.model_dump(mode="json"),
        "source": str(training.source),
        "conversations": digest.hexdigest(),
    }


def held_out_examples(examples: Sequence[SftExample], config: SftConfig) -> frozenset[int]:
    """Return the indices of held-out examples: whole scenarios, drawn with the seed.

    Raises:
        ConfigError: the share leaves nothing to train on, or nothing to measure.
    """
    if not config.held_out:
        return frozenset()
    scenarios = sorted({example.scenario_id for example in examples})
    count = round(len(scenarios) * config.held_out)
    if not 0 < count < len(scenarios):
        raise ConfigError(
            f"held_out is {config.held_out} of {len(scenarios)} scenarios, which is {count}; expected a share that "
            "leaves at least one to measure and one to train on"
        )
    chosen = set(random.Random(f"{config.seed}/held out").sample(scenarios, count))
    return frozenset(k for k, example in enumerate(examples) if example.scenario_id in chosen)
