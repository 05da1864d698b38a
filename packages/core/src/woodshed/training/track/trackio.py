"""Trackio: a run in its local database, on a Space or on a server of your own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import trackio

from woodshed.training.track.tracker import PROJECT, Opened, TrackedRun
from woodshed.training.track.values import numbers


class Trackio:
    """A Trackio run; `TRACKIO_DIR`, `TRACKIO_SPACE_ID` and `TRACKIO_SERVER_URL` are in effect."""

    def open(self, run: TrackedRun) -> Opened:
        """Begin the Trackio run or go on with it; Trackio finds it by its name."""
        project = os.environ.get("TRACKIO_PROJECT") or PROJECT
        name = run.kept_id or f"{run.name}-{run.run_id[:8]}"
        self._run = trackio.init(
            project, name=name, config=dict(run.config), resume="allow", embed=False, auto_log_cpu=False,
            auto_log_gpu=False,
        )  # fmt: skip
        self._step = 0
        return Opened(tracked_id=name, where=f"run {name} of `trackio show --project {project}`")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log a row."""
        self._step = step
        self._run.log(dict(values), step=step)

    def warn(self, texts: Sequence[str], new: int) -> None:
        """Show each new warning as an alert."""
        for text in texts[len(texts) - new :]:
            self._run.alert(title="woodshed", text=text, level=trackio.AlertLevel.WARN, step=self._step)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Log the summary's numbers beside the last row, and wait until everything is stored."""
        if summary is not None:
            self._run.log({f"summary/{k}": v for k, v in numbers(summary).items()}, step=self._step)
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always")
            self._run.finish()
        # Trackio keeps what it could not send, and sends it when its run is opened again.
        if left:
            raise RuntimeError("; ".join(str(w.message) for w in left))
