"""The folder of a run: resume an unfinished run, rename a finished one, refuse anything else."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from woodshed.errors import ConfigError

_LOCK = "run.lock"


@contextmanager
def run_folder(run_dir: Path | str | None, *, name: str, fresh: bool) -> Iterator[Path]:
    """Yield the folder of `open_folder`, locked against other processes for the block.

    Raises:
        ConfigError: also if another process is running in the folder.
    """
    folder = open_folder(run_dir, name=name, fresh=fresh)
    with _locked(folder):
        yield folder


def open_folder(run_dir: Path | str | None, *, name: str, fresh: bool) -> Path:
    """Return the run's folder. An unfinished run in it is resumed; a finished one is renamed, never overwritten.

    Raises:
        ConfigError: the path is a file, or a folder that contains something other than a run.
    """
    folder = Path(run_dir) if run_dir is not None else Path("runs") / name
    if folder.is_file():
        raise ConfigError(f"run_dir {str(folder)!r} is a file; expected a folder that a run may fill")
    if folder.is_dir() and any(folder.iterdir()):
        if not any((folder / name).exists() for name in ("config.json", "run.sqlite", _LOCK)):
            raise ConfigError(
                f"run_dir {str(folder)!r} is not empty and holds no run of woodshed; choose an empty or new folder"
            )
        if fresh or _is_finished(folder):
            with _locked(folder):
                _set_aside(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"run_dir {str(folder)!r} cannot be written: {error.strerror}; choose another folder"
        ) from error
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        lock = (folder / _LOCK).open("a+")
    except OSError as error:
        raise ConfigError(f"run_dir {str(folder)!r} cannot be written: {error.strerror}; choose another") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConfigError(
                f"process {lock.read().strip() or 'unknown'} is at work on the run in {str(folder)!r}; two would "
                "damage it. Wait until it ends, stop it, or choose another run_dir"
            ) from None
        except OSError:
            pass  # the file system has no locks
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _is_finished(folder: Path) -> bool:
    path = folder / "run.sqlite"
    if not path.exists():
        return False
    with closing(sqlite3.connect(path)) as db:
        try:
            return db.execute("SELECT 1 FROM facts WHERE name = 'finished'").fetchone() is not None
        except sqlite3.OperationalError:
            return False
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"{str(path)!r} cannot be used as a run's database: {error}. Restore a copy, or choose another run_dir"
            ) from error


def _set_aside(folder: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = folder.with_name(f"{folder.name}-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}-{stamp}-{number}")
    folder.rename(target)
    return target
