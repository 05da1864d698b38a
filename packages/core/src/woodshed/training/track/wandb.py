"""Weights & Biases: online where a key is set, else kept in the run's folder for `wandb sync`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import wandb

from woodshed.training.track.position import TRACKING
from woodshed.training.track.tracker import PROJECT, Opened, TrackedRun
from woodshed.training.track.values import HELD_OUT, numbers

_INIT_S = 30


class Wandb:
    """A W&B run; `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_MODE` and `WANDB_BASE_URL` are in effect."""

    def open(self, run: TrackedRun) -> Opened:
        """Begin the W&B run or go on with it; without a key or a server it is kept on this machine."""
        tracked_id = run.kept_id or run.run_id
        warning = None
        try:
            self._run = self._begin(run, tracked_id)
        except Exception as error:  # no key, a refused one, no server: nothing that a second try would change
            warning = f"Weights & Biases cannot be used online: {_one_line(error)}"
            wandb.teardown()
            self._run = self._begin(run, tracked_id, mode="offline")
        # The charts' horizontal axis; by default it is W&B's own count.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        kept = run.folder / TRACKING / "wandb"
        later = f"wandb sync {shlex.quote(str(kept))}/*run-*-{tracked_id}"
        where = f"kept in {kept}; send it with `{later}`" if self._run.offline else str(self._run.url)
        return Opened(tracked_id=tracked_id, where=where, later=later, warning=warning)

    def _begin(self, run: TrackedRun, tracked_id: str, **mode: Any) -> Any:
        settings = wandb.Settings(console="off", init_timeout=_INIT_S)
        project = {} if settings.project else {"project": PROJECT}
        folder = run.folder / TRACKING
        folder.mkdir(exist_ok=True)
        return wandb.init(
            id=tracked_id, name=run.name, dir=str(folder), config=dict(run.config), resume="allow",
            allow_val_change=True, settings=settings, **project, **mode,
        )  # fmt: skip

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log a row at once. W&B drops what does not come after all before it, in earlier lives of the run too."""
        is_evaluation = any(name.startswith(HELD_OUT) for name in values)
        self._run.log({"step": step, **values}, step=2 * step + is_evaluation, commit=True)

    def warn(self, texts: Sequence[str], new: int) -> None:
        """Keep the warnings in the run's summary, and show them as its notes."""
        self._run.summary["warnings"] = list(texts)
        self._run.notes = "\n\n".join(texts)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Finish the W&B run; one that stopped is shown as failed, and goes on when the run is resumed."""
        if summary is not None:
            self._run.summary.update({"summary": dict(summary), **_named(summary)})
        self._run.finish(exit_code=0 if summary is not None else 1)


def _named(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the summary's numbers under names that W&B can sort runs by."""
    return {f"summary/{name}": value for name, value in numbers(summary).items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
