"""A run that is finished: what it returns, and what it says when it is asked for again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.errors import ConfigError
from woodshed.training.report.evaluations import is_stopped, steps_asked
from woodshed.training.report.summary import Summary
from woodshed.training.run.store import RunStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished run."""

    folder: Path
    summary: Summary
    history: tuple[dict[str, Any], ...]
    """One row per step: reward, groups, masked rollouts, loss metrics, seconds, weight version."""


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
    run = Run(folder=folder, summary=_summary(folder / "summary.json"), history=history)
    success = f", {text}" if (text := run.summary.held_out()) else ""
    (console or Console(soft_wrap=True)).print(
        f"the run in {folder} is finished: {len(history)} steps{success}; figures: {folder / 'summary.json'}, plot: "
        f"{folder / 'plot.png'}{_adapter(store)}. Nothing was trained now. To go on from its last checkpoint, ask for "
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


def _adapter(store: RunStore) -> str:
    """Name the folder of the LoRA, if the run's engine kept it in the run's folder."""
    found = sorted((store.folder / "engine" / "policies").glob(f"*/{store.run_id()}/checkpoints/[0-9]*/adapter"))
    return f", LoRA: {found[-1]}" if found else ""
