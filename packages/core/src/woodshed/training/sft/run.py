"""A warm-up: supervised steps on finished conversations, whose adapter a later run starts from."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from woodshed.engine.client.local import ConnectedEngine, Engine, LocalEngine
from woodshed.errors import ConfigError
from woodshed.training.config import Policy
from woodshed.training.run.folder import run_folder
from woodshed.training.run.initial_adapter import starting_adapter
from woodshed.training.run.store import RunStore
from woodshed.training.sft.config import SftConfig
from woodshed.training.sft.conversation_file import examples_of_file
from woodshed.training.sft.dataset import Choice, SftExample, examples_of_run, run_settings
from woodshed.training.sft.progress import SftProgress
from woodshed.training.sft.summary import SftSummary
from woodshed.training.sft.trainer import SftTrainer


@dataclass(frozen=True, kw_only=True, slots=True)
class SftRun:
    """A finished warm-up."""

    folder: Path
    adapter: str
    """What `Policy(adapter=...)` takes."""
    summary: SftSummary
    history: tuple[dict[str, Any], ...]
    """One row an optimizer step."""


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Everything a warm-up needs; `.run()` starts it or goes on where it was cut."""

    source: Path
    policy: Policy
    choice: Choice = field(default_factory=Choice)
    engine: LocalEngine | ConnectedEngine = field(default_factory=Engine.local)
    config: SftConfig = field(default_factory=SftConfig)
    run_dir: Path | str | None = None
    fresh: bool = False

    def run(self) -> SftRun:
        """Train, and return when the warm-up is finished."""
        return asyncio.run(sft_async(self))


def sft(
    source: Path | str,
    *,
    policy: Policy | str | None = None,
    min_score: float | None = None,
    top: int | None = None,
    engine: LocalEngine | ConnectedEngine | None = None,
    run_dir: Path | str | None = None,
    fresh: bool = False,
    config: SftConfig | None = None,
    **settings: Any,
) -> SftRun:
    """Teach a policy finished conversations, token by token, and return the LoRA that a run can start from.

    Called again after a crash or Ctrl-C with the same arguments it goes on where it was.

    Example:
        `warm = woodshed.sft("runs/support", min_score=0.8)`, then `woodshed.Policy(model, adapter=warm.adapter)`.

    Args:
        source: folder of an `woodshed train` run, of which the best rollouts are learnt; or a `.jsonl` file of
            conversations, of which every assistant message is.
        policy: the policy, or its model's name; a run's own where `source` is a run.
        min_score: lowest judge's score of a rollout that is learnt.
        top: rollouts learnt of each group whose scores differ; 1 where neither is given.
        engine: where the policy is served and trained; `Engine.local()` by default.
        run_dir: folder of the warm-up; `runs/sft` by default.
        fresh: set an unfinished warm-up in that folder aside.
        config: all numbers at once, in place of `settings`.
        **settings: fields of `SftConfig`.

    Raises:
        ConfigError: something cannot be learnt; names the line of a file, or says which scores a run has.
        EngineError: the engine could not be started or reached, or a step could not be taken.
    """
    if config is not None and settings:
        raise ConfigError(f"pass either config= or single settings, not both; found config and {sorted(settings)}")
    return warm_up(
        source, policy=policy, choice=Choice(min_score=min_score, top=top), engine=engine or Engine.local(),
        config=config or SftConfig(**settings), run_dir=run_dir, fresh=fresh,
    ).run()  # fmt: skip


def warm_up(source: Path | str, *, policy: Policy | str | None, **parts: Any) -> WarmUp:
    """Return a warm-up with its policy: the one given, or the run's own."""
    source = Path(source)
    named = Policy(policy) if isinstance(policy, str) else policy
    if _is_file(source):
        if named is None:
            raise ConfigError(f"{str(source)!r} is a file of conversations, which names no model; name it: policy=…")
        return WarmUp(source=source, policy=named, **parts)
    own = Policy(**run_settings(source)["policy"])
    if named is not None and named.model != own.model:
        raise ConfigError(
            f"the run in {str(source)!r} trained {own.model!r}, and {named.model!r} is asked for: its rollouts are "
            "tokens of its own model. Leave the model out, or give conversations as a .jsonl file"
        )
    return WarmUp(source=source, policy=own if isinstance(policy, str) or named is None else named, **parts)


def _is_file(source: Path) -> bool:
    return source.is_file() or source.suffix == ".jsonl"


async def sft_async(warm: WarmUp) -> SftRun:
    """Run a warm-up inside an event loop that is already there; see `sft`."""
    examples = examples_of_file(warm.source) if _is_file(warm.source) else examples_of_run(warm.source, warm.choice)
    held = _held_out(examples, warm.config)
    adapter = starting_adapter(warm.policy, warm.engine)
    with run_folder(warm.run_dir, name="sft", fresh=warm.fresh) as folder:
        store = RunStore(folder)
        try:
            _forget_unbegun(store)
            store.claim(_identity(warm, examples))
            with SftProgress(folder=folder, epochs=warm.config.epochs) as progress:
                summary = await _learnt(warm, examples, held, adapter, store, progress)
                progress.finished(summary)
            history = tuple(store.history())
        finally:
            store.close()
    return SftRun(folder=folder, adapter=summary.adapter, summary=summary, history=history)


async def _learnt(
    warm: WarmUp,
    examples: Sequence[SftExample],
    held: frozenset[int],
    adapter: str | None,
    store: RunStore,
    progress: SftProgress,
) -> SftSummary:
    began = time.perf_counter()
    home = store.folder / "engine"
    async with warm.engine.running([warm.policy.served()], home=home, progress=progress.engine) as client:
        trainer = SftTrainer(
            client=client, store=store, policy=warm.policy, config=warm.config, source=warm.source, progress=progress
        )
        with store.timed(began):
            await trainer.import_examples(examples)
            await trainer.open(adapter)
            await trainer.learn([k for k in range(len(examples)) if k not in held], sorted(held))
        return await trainer.finish(examples, held)


def _forget_unbegun(store: RunStore) -> None:
    """Let a warm-up that took no step, such as one whose file was refused, be begun with other settings."""
    if not store.history():
        (store.folder / "config.json").unlink(missing_ok=True)
        for name in ("run_id", "tokens", "held out before"):
            store.save_fact(name, None)


def _identity(warm: WarmUp, examples: Sequence[SftExample]) -> dict[str, Any]:
    """Return what a warm-up must have again to be gone on with."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.scenario_id, example.messages, example.tools)).encode())
        digest.update(repr([(c.prompt_ids, [m.token_ids for m in c.completions]) for c in example.calls]).encode())
    return {
        "policy": warm.policy.model_dump(mode="json"),
        "sft": warm.config.model_dump(mode="json"),
        "source": str(warm.source),
        "conversations": digest.hexdigest(),
    }


def _held_out(examples: Sequence[SftExample], config: SftConfig) -> frozenset[int]:
    """Return the examples that are measured and not learnt: whole scenarios, drawn by the seed.

    Raises:
        ConfigError: the share leaves nothing to learn, or nothing to measure.
    """
    if not config.held_out:
        return frozenset()
    scenarios = sorted({example.scenario_id for example in examples})
    count = round(len(scenarios) * config.held_out)
    if not 0 < count < len(scenarios):
        raise ConfigError(
            f"held_out is {config.held_out} of {len(scenarios)} scenarios, which is {count}; expected a share that "
            "leaves at least one to measure and one to learn"
        )
    chosen = set(random.Random(f"{config.seed}/held out").sample(scenarios, count))
    return frozenset(k for k, example in enumerate(examples) if example.scenario_id in chosen)
