"""Checkpoints on disk: written to a temporary folder, flushed, then renamed, so one with a final name is complete.

`home/checkpoints/00007/` holds:

- `adapter/`: PEFT layout, which vLLM loads: `adapter_config.json` and `adapter_model.safetensors`;
- `state.pt`: optimizer and random state;
- `position.json`: version, reports of the steps taken, sizes of the files above; written last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from woodshed.errors import TrainError
from woodshed.types import FORMAT, OpenPolicy, StepReport
from woodshed.types.record import Record

KEPT = 3
"""How many of the newest checkpoints stay on disk."""
_POSITION = "position.json"


class Position(Record):
    """The state of a run at a checkpoint."""

    format: Literal[1] = FORMAT
    version: int
    policy: OpenPolicy
    reports: tuple[StepReport, ...] = ()
    """Every step taken so far, oldest first, including those that trained nothing."""
    sizes: dict[str, int] = Field(default_factory=dict)
    """Size in bytes of each other file of the checkpoint, by relative path."""


class Checkpoints:
    """The checkpoint folder of one policy."""

    def __init__(self, home: Path) -> None:
        """Use the folder `home/checkpoints`; nothing is read or created yet."""
        self.folder = home / "checkpoints"

    def path(self, version: int) -> Path:
        """Return the folder of the checkpoint of `version`."""
        return self.folder / f"{version:05d}"

    def kept(self) -> tuple[int, ...]:
        """Return the versions with a complete checkpoint on disk, oldest first."""
        if not self.folder.is_dir():
            return ()
        versions = sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())
        return tuple(version for version in versions if self.position(version) is not None)

    def position(self, version: int) -> Position | None:
        """Return the position of a checkpoint, or None where it is missing or incomplete."""
        try:
            return _read(self.path(version))
        except (OSError, ValueError):
            return None

    def clean(self) -> None:
        """Remove what a killed process left half-written, which has no final name yet.

        Raises:
            TrainError: A checkpoint cannot be read. It was complete when it got its name, so it is not deleted.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.name.startswith("."):
                shutil.rmtree(path)
            elif path.name.isdigit():
                _check(path)

    def save(self, position: Position, write: Callable[[Path], None]) -> None:
        """Make a checkpoint of the files that `write` puts into a folder, and delete the oldest beyond `KEPT`.

        A kill at any moment leaves either no checkpoint of this version or a complete one.
        """
        target = self.path(position.version)
        aside = self.folder / f".{target.name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        write(aside)
        files = [path for path in aside.rglob("*") if path.is_file()]
        sizes = {path.relative_to(aside).as_posix(): path.stat().st_size for path in files}
        (aside / _POSITION).write_text(position.model_copy(update={"sizes": sizes}).model_dump_json())
        for path in (*files, aside / _POSITION, *(p for p in aside.rglob("*") if p.is_dir()), aside):
            _flush(path)
        aside.rename(target)
        _flush(self.folder)
        for old in self.kept()[:-KEPT]:
            self._remove(old)

    def restate(self, position: Position) -> None:
        """Replace the position of an existing checkpoint, after a step that changed no weights."""
        folder = self.path(position.version)
        before = self.position(position.version)
        assert before is not None, f"{folder} is not complete"
        aside = folder / f".{_POSITION}"
        aside.write_text(position.model_copy(update={"sizes": before.sizes}).model_dump_json())
        _flush(aside)
        aside.rename(folder / _POSITION)
        _flush(folder)

    def _remove(self, version: int) -> None:
        # Renamed first, so that a kill during the removal leaves nothing that looks complete.
        aside = self.folder / f".old-{version:05d}"
        self.path(version).rename(aside)
        shutil.rmtree(aside)


def _read(folder: Path) -> Position:
    """Return the position in a checkpoint's folder.

    Raises:
        OSError: A file is missing.
        ValueError: A file has the wrong content or size.
    """
    position = Position.model_validate_json((folder / _POSITION).read_bytes())
    if position.version != int(folder.name):
        raise ValueError(f"{_POSITION} is of version {position.version}")
    for name, size in position.sizes.items():
        if (actual := (folder / name).stat().st_size) != size:
            raise ValueError(f"{name} has {actual} bytes, expected {size}")
    return position


def _check(folder: Path) -> None:
    """Raise TrainError where a checkpoint cannot be read."""
    try:
        _read(folder)
    except (OSError, ValueError) as error:
        raise TrainError(
            f"checkpoint {str(folder)!r} cannot be read: {' '.join(str(error).split())}. It was complete when it was "
            "written, so another version of woodshed wrote it or it was changed since; it is left as it is. Use the "
            "woodshed that wrote it, restore a copy, or move the folder away to continue from the newest one left"
        ) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
