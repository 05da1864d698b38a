"""Checkpoints on disk: written to a temporary folder, flushed, then renamed, so one with a final name is complete.

`home/checkpoints/00007/` holds:

- `adapter/`: PEFT layout, which vLLM loads: `adapter_config.json` and `adapter_model.safetensors`;
- `state.pt`: optimizer and random state;
- `position.json`: version, reports of the steps taken, sizes and hashes of the files above; written last.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from woodshed.errors import TrainError
from woodshed.types import FORMAT, OpenPolicy, StepReport
from woodshed.types.record import Record

_log = logging.getLogger("woodshed.trainer")

KEPT = 3
"""How many of the newest checkpoints stay on disk where a step asks for no other number."""
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
    hashes: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the same files: a file of the right size may still hold other bytes."""


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
        """Remove what a killed process left half-written, and check the bytes of what is there.

        Raises:
            TrainError: The newest checkpoint cannot be read. It was complete when it got its name, so it is not
                deleted. An older one that cannot be read is named in the log; nothing of the run depends on it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.is_dir() and path.name.startswith(".") and path.name[1:].removeprefix("old-").isdigit():
                shutil.rmtree(path)
        *older, newest = [None, *sorted(path for path in self.folder.iterdir() if path.name.isdigit())]
        for path in filter(None, older):
            if (why := _damage(path)) is not None:
                _log.warning("an older checkpoint, %r, cannot be read (%s); the run goes on without it", str(path), why)
        if newest is not None and (why := _damage(newest)) is not None:
            raise TrainError(
                f"checkpoint {str(newest)!r} cannot be read: {why}. It was complete when it was written, so another "
                "version of woodshed wrote it or it was changed since; it is left as it is. Use the woodshed that "
                "wrote it, restore a copy, or move the folder away to continue from the newest one left"
            )

    def save(
        self, position: Position, write: Callable[[Path], None], *, newest: int = KEPT, also: int | None = None
    ) -> None:
        """Make a checkpoint of the files that `write` puts into a folder, and delete older ones.

        All but the `newest` are deleted; that of version `also` stays, however old it is. A kill at any moment leaves
        either no checkpoint of this version or a complete one.

        Raises:
            OSError: The disk refuses it.
        """
        target = self.path(position.version)
        aside = self.folder / f".{target.name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            self._fill(aside, position, write)
        except Exception as error:
            # A full disk shows as whatever the library that was writing makes of it.
            shutil.rmtree(aside, ignore_errors=True)
            free_mib = shutil.disk_usage(self.folder).free / 2**20
            raise OSError(
                f"checkpoint {str(target)!r} cannot be written ({free_mib:.0f} MiB are free there): "
                f"{' '.join(str(error).split())}. The checkpoints before it are as they were"
            ) from error
        aside.rename(target)
        _flush(self.folder)
        for old in self.kept()[:-newest]:
            if old != also:
                self._remove(old)

    def _fill(self, folder: Path, position: Position, write: Callable[[Path], None]) -> None:
        """Write a checkpoint's files, with the position that names their sizes and hashes, and flush them all."""
        write(folder)
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        hashes = {path.relative_to(folder).as_posix(): _hash(path) for path in files}
        whole = position.model_copy(update={"sizes": sizes, "hashes": hashes})
        (folder / _POSITION).write_text(whole.model_dump_json())
        for path in (*files, folder / _POSITION, *(p for p in folder.rglob("*") if p.is_dir()), folder):
            _flush(path)

    def restate(self, position: Position) -> None:
        """Replace the position of an existing checkpoint, after a step that changed no weights."""
        folder = self.path(position.version)
        before = self.position(position.version)
        assert before is not None, f"{folder} is not complete"
        aside = folder / f".{_POSITION}"
        aside.write_text(position.model_copy(update={"sizes": before.sizes, "hashes": before.hashes}).model_dump_json())
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


def _damage(folder: Path) -> str | None:
    """Return why a checkpoint cannot be read, in one line; None where every byte is as it was written."""
    try:
        position = _read(folder)
        for name, digest in position.hashes.items():
            if _hash(folder / name) != digest:
                return f"{name} does not hold the bytes that were written"
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())
    return None


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
