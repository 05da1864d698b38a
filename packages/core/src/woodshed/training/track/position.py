"""How far a tracker has come with a run: which tracked run it is, and what it has of the run; kept in the folder."""

from __future__ import annotations

from pathlib import Path

from woodshed.training.run.whole_file import write_whole
from woodshed.types import Record

TRACKING = "tracking"
"""Folder in the run's folder with a position and a log for each tracker, and what trackers keep on this machine."""


class Position(Record):
    """What one tracker has of a run."""

    tracked_id: str | None = None
    where: str | None = None
    later: str | None = None
    """Command that sends what the tracker itself has kept on this machine."""
    steps: int = 0
    """History rows that were sent."""
    evaluations: tuple[int, ...] = ()
    """Steps whose evaluation was sent."""
    warnings: int = 0
    """Warnings that were sent."""
    finished_steps: int | None = None
    """Steps of the finished run whose summary was sent, and the tracked run was ended with; None before."""


def position_file(folder: Path, name: str) -> Path:
    """Return the file of a tracker's position in the run in `folder`."""
    return folder / TRACKING / f"{name}.json"


def read_position(folder: Path, name: str) -> Position:
    """Return a tracker's position; that of one that has nothing yet, if the file is missing or damaged."""
    try:
        return Position.model_validate_json(position_file(folder, name).read_bytes())
    except (OSError, ValueError):
        return Position()


def write_position(folder: Path, name: str, position: Position) -> None:
    """Write a tracker's position atomically."""
    position_file(folder, name).parent.mkdir(exist_ok=True)
    write_whole(position_file(folder, name), position.model_dump_json(indent=2) + "\n")
