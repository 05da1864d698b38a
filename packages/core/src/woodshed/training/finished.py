"""A run that is finished: what it returns, and what it says when it is asked for again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.errors import ConfigError
from woodshed.training.report.evaluations import best, evaluations, is_stopped, steps_asked
from woodshed.training.report.summary import Summary
from woodshed.training.run.adapters import adapter_of
from woodshed.training.run.store import RunStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished run."""

    folder: Path
    summary: Summary
    history: tuple[dict[str, Any], ...]
    """One row per step: reward, groups, masked rollouts, loss metrics, seconds, weight version."""
    adapter: Path | None = None
    """Folder, on this machine, of the LoRA after the last step; None if no step has trained anything."""
    best_adapter: Path | None = None
    """The same of the version with the highest held-out success (`summary.best_step`); None without an evaluation."""


def as_run(store: RunStore, summary: Summary) -> Run:
    """Return a finished run with its LoRAs."""
    history = tuple(store.history())
    last, top = versions_to_keep(store, history)
    return Run(
        folder=store.folder,
        summary=summary,
        history=history,
        adapter=None if last is None else adapter_of(store, last),
        best_adapter=None if top is None else adapter_of(store, top),
    )


def versions_to_keep(store: RunStore, history: Sequence[Mapping[str, Any]]) -> tuple[int | None, int | None]:
    """Return the last version of a run and the best one; None where nothing was trained or evaluated."""
    last = history[-1]["version"] if any(row["trained"] for row in history) else None
    top = best(evaluations(store, history))
    return last, None if top is None else top.version


def refuse_fewer_steps(store: RunStore, steps: int) -> None:
    """Raise ConfigError where a run is asked for fewer steps than it has taken."""
    taken = len(store.history())
    if steps < taken:
        raise ConfigError(
            f"TrainConfig.steps is {steps}, but the run in {str(store.folder)!r} has taken {taken} steps already, "
            f"which stay. Ask for {taken} or more, choose another folder (run_dir=, `--run-dir`), or start anew with "
            "fresh=True (`--fresh`), which renames this one"
        )


def refuse_lost_store(store: RunStore) -> None:
    """Raise ConfigError where a run's checkpoints are there and its database is not: it would start again unseen."""
    found = sorted((store.folder / "engine" / "policies").glob("*/*/checkpoints/[0-9]*"))
    if found and store.fact("run_id") is None:
        raise ConfigError(
            f"{str(store.folder / 'run.sqlite')!r} is empty, but the run has a checkpoint, {str(found[-1])!r}. Restore "
            "a copy of the database, choose another folder (run_dir=, `--run-dir`), or start anew with fresh=True "
            "(`--fresh`), which renames this one"
        )


def finished_run(
    store: RunStore, steps: int, patience: int | None = None, *, console: Console | None = None
) -> Run | None:
    """Return the run if it is finished with `steps` steps, and say so in one line; None if there is work to do.

    A run that stopped early is finished as long as it is asked for the same steps and the same `patience`.

    Raises:
        ConfigError: its figures cannot be read.
    """
    history = tuple(store.history())
    is_over = steps <= len(history) or is_stopped(store, steps, patience)
    if not store.fact("finished") or not is_over:
        return None
    folder = store.folder
    run = as_run(store, _summary(folder / "summary.json"))
    lora = f", LoRA: {run.adapter}" if run.adapter else ""
    success = f", {text}" if (text := run.summary.held_out()) else ""
    (console or Console(soft_wrap=True)).print(
        f"the run in {folder} is finished: {len(history)} steps{success}; figures: {folder / 'summary.json'}, plot: "
        f"{folder / 'plot.png'}{lora}. Nothing was trained now. To go on from its last checkpoint, ask for "
        f"more steps than {steps_asked(store)} (steps=N, `--steps N`); to train anew, fresh=True (`--fresh`), which "
        "renames this folder, or another folder (run_dir=, `--run-dir`)",
        markup=False,
        highlight=False,
    )
    return run


def _summary(file: Path) -> Summary:
    try:
        figures = json.loads(file.read_text())
        return Summary(**{name: value for name, value in figures.items() if name in Summary.model_fields})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"the run is finished, but its figures {str(file)!r} cannot be read: {why}. Restore a copy, or ask for "
            "more steps, after which they are written again"
        ) from error
