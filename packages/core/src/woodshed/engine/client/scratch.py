"""A folder for one process on whatever machine it runs on, removed even where the process is killed."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = "lock"


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Yield a folder for this process alone, which is removed at the end; where it is killed, by the next one here.

    Whether a process lives is told by its lock, not by its id: processes in containers share folders and not ids.

    Args:
        prefix: What the names of such folders begin with, and no others.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove(left)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    # Named only once it is locked, or another process could take it for one that was left.
    with (folder / f".{_LOCK}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f".{_LOCK}").rename(folder / _LOCK)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Remove a scratch folder unless its process lives or belongs to somebody else."""
    with suppress(OSError), (folder / _LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
