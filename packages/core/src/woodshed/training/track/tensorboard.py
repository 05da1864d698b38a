"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboardX import SummaryWriter

from woodshed.capture import new_id
from woodshed.training.track.tracker import Opened, TrackedRun
from woodshed.training.track.values import as_markdown

FOLDER = "tensorboard"
"""Folder of the event files in the run's folder; `tensorboard --logdir runs` compares runs."""


class Tensorboard:
    """A folder of event files. Each life of a run adds a file, and TensorBoard reads them as one run."""

    def open(self, run: TrackedRun) -> Opened:
        """Begin an event file, with the settings as text."""
        folder = run.folder / FOLDER
        is_there = folder.is_dir() and any(folder.iterdir())
        tracked_id = run.kept_id if run.kept_id is not None and is_there else new_id()
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("config", as_markdown(run.config), 0)
        self._step = 0
        return Opened(tracked_id=tracked_id, where=f"`tensorboard --logdir {shlex.quote(str(folder))}`")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a row to the disk."""
        self._step = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def warn(self, texts: Sequence[str], new: int) -> None:
        """Show the warnings as text."""
        self._writer.add_text("warnings", "\n".join(f"- {w}" for w in texts), self._step)
        self._writer.flush()

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Write the summary as text, and close the file."""
        if summary is not None:
            self._writer.add_text("summary", as_markdown(summary), self._step)
        self._writer.close()
