"""What a tracker is: something that takes a run's settings, numbers by step, warnings and summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PROJECT = "woodshed"
"""Project or experiment of the tracked runs, where the tracker's own environment variable names no other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """The run, as a tracker needs to know it."""

    name: str
    """Name of the run's folder."""
    run_id: str
    """Id of the run on the engine; it stays the same when the run is resumed."""
    folder: Path
    config: Mapping[str, Any]
    """The run's settings, nested, as plain JSON."""
    kept_id: str | None
    """Id of the tracked run that an earlier life of the run has begun; None in the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A tracked run that rows can be sent to."""

    tracked_id: str
    """Another one than `TrackedRun.kept_id` says that the earlier one is gone: everything is sent again."""
    where: str
    """Where to look at it: an address, or the command that shows it."""
    later: str | None = None
    """Command that sends what is kept on this machine; None where the run's own command does."""
    warning: str | None = None
    """Why it is not where it was meant to be."""


class Tracker(Protocol):
    """A tracker. Its methods are called in order, in a process of their own, and raise what goes wrong."""

    def open(self, run: TrackedRun) -> Opened:
        """Begin the tracked run with the run's settings, or go on with the one that was begun before."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers by name, for the time after `step` optimizer steps. Steps never decrease."""

    def warn(self, texts: Sequence[str], new: int) -> None:
        """Send the run's warnings: all of them, of which the last `new` are new."""

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """End the tracked run with the finished run's summary; None if the run has stopped and may be resumed."""
