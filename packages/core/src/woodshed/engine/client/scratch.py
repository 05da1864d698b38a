"""A folder for one process on whatever machine it runs on, removed even where the process is killed."""

from __future__ import annotations

import fcntl
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = ".lock"


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Yield a folder for this process alone, which is removed at the end; where it is killed, by the next one here.

    Whether a process lives is told by its lock, not by its id: processes in containers share folders and not ids. The
    lock lies beside the folder and outlives it, so that a removal which is cut short is finished by the next one, too.

    Args:
        prefix: What the names of such folders begin with, and no others.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{prefix}*{_LOCK}"):
        _sweep(left)
    name = f"{prefix}{secrets.token_hex(4)}"
    folder, unnamed = place / name, place / f".{name}{_LOCK}"
    # Named only once it is locked, or another process could take it for one that was left.
    with unnamed.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        locked = unnamed.rename(place / f"{name}{_LOCK}")
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            _remove(folder, locked)


def _sweep(lock: Path) -> None:
    """Remove the folder of a lock unless its process lives or belongs to somebody else."""
    with suppress(OSError), lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(lock.with_name(lock.name.removesuffix(_LOCK)), lock)


def _remove(folder: Path, lock: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        lock.unlink(missing_ok=True)
