"""Feed one tracker from a run's folder: what is new in its store, in order, and never twice if it can be helped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from woodshed.training.report.evaluations import evaluations
from woodshed.training.report.held_out_loss import held_out_losses
from woodshed.training.run.settings import read_settings
from woodshed.training.run.store import RunStore
from woodshed.training.track.position import read_position, write_position
from woodshed.training.track.tracker import Opened, TrackedRun, Tracker
from woodshed.training.track.values import evaluation_values, loss_values, row_values


class Feed:
    """Sends what a tracker does not have yet. After an error, the next call goes on where it stopped."""

    def __init__(self, name: str, tracker: Tracker, folder: Path, opened: Callable[[Opened], None]) -> None:
        """Open the run's store; `opened` is called once, with the tracked run."""
        self._name = name
        self._tracker = tracker
        self._folder = folder
        self._store = RunStore(folder)
        self._opened = opened
        self._is_open = False
        self.position = read_position(folder, name)

    def close_store(self) -> None:
        """Close the run's store."""
        self._store.close()

    def send(self) -> None:
        """Send all rows, evaluations and warnings that are new."""
        if not self._is_open:
            self._open()
        for step, values, change in self._new():
            self._tracker.log(step, values)
            self._move(**change)
        texts = self._store.fact("warnings") or []
        if new := len(texts) - self.position.warnings:
            self._tracker.warn(texts, max(new, 0))
            self._move(warnings=len(texts))

    def finish(self) -> None:
        """Send what is left, and the summary if the run is finished; end the tracked run."""
        self.send()
        is_finished = bool(self._store.fact("finished"))
        summary = json.loads((self._folder / "summary.json").read_text()) if is_finished else None
        self._tracker.close(summary)
        if is_finished:
            self._move(finished_steps=self.position.steps)

    def _open(self) -> None:
        run = TrackedRun(
            name=self._folder.resolve().name,
            run_id=self._store.run_id(),
            folder=self._folder.resolve(),
            config=read_settings(self._folder / "config.json"),
            kept_id=self.position.tracked_id,
        )
        found = self._tracker.open(run)
        if found.tracked_id != self.position.tracked_id:
            self.position = type(self.position)()
        self._move(tracked_id=found.tracked_id, where=found.where, later=found.later or self.position.later)
        self._is_open = True
        self._opened(found)

    def _new(self) -> Iterator[tuple[int, dict[str, float], dict[str, Any]]]:
        """Yield steps taken, numbers and the change of position, in the order in which it all happened."""
        history, measured = self._snapshot()
        sent = set(self.position.evaluations)
        events = [(step, 1, values) for step, values in measured.items() if step not in sent]
        events += [(k + 1, 0, row_values(row)) for k, row in enumerate(history) if k >= self.position.steps]
        for step, is_measured, values in sorted(events, key=lambda event: event[:2]):
            yield step, values, {"evaluations": (*self.position.evaluations, step)} if is_measured else {"steps": step}

    def _snapshot(self) -> tuple[list[dict[str, Any]], dict[int, dict[str, float]]]:
        """Return rows and what was measured between them; they belong together: the last is named by the rows."""
        history = self._store.history()
        while True:
            measured = {point.step: evaluation_values(point) for point in evaluations(self._store, history)}
            # An SFT measures a loss where a run measures success.
            measured |= {step: loss_values(loss) for step, loss in held_out_losses(self._store, history).items()}
            if len(again := self._store.history()) == len(history):
                return history, measured
            history = again

    def _move(self, **change: Any) -> None:
        self.position = self.position.model_copy(update=change)
        write_position(self._folder, self._name, self.position)
