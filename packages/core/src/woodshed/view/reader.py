"""A run's folder, opened for reading only: its store, its settings, and whether a process is at work on it."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from woodshed.errors import ConfigError
from woodshed.training.run.settings import read_settings
from woodshed.training.run.storage import storage
from woodshed.training.run.store import FORMAT, RunStore

_FILE = "run.sqlite"
_TABLES = {"trajectories", "judgements", "steps", "facts"}


class ReadStore(RunStore):
    """A run's store that cannot write. Use it as a context manager, for one answer."""

    def __init__(self, folder: Path) -> None:
        """Open the run's database.

        Raises:
            ConfigError: there is no run's database, it is not finished being made, or a newer woodshed wrote it.
        """
        self.folder = folder
        self._file = folder / _FILE
        self._lock = threading.Lock()
        self._history: list[dict[str, Any]] = []
        if not self._file.is_file():
            raise ConfigError(_no_run(folder))
        self._db = sqlite3.connect(
            f"{self._file.resolve().as_uri()}?{_mode(self._file)}", uri=True, check_same_thread=False
        )
        try:
            self._check()
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise ConfigError(
                    f"{str(self._file)!r} cannot be read as a run's database: {error}. Restore a copy"
                ) from error
            raise

    def _check(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise ConfigError(
                f"{str(self._file)!r} was written by a newer woodshed (format {version}; this one knows up to "
                f"{FORMAT}). Look at it with that woodshed"
            )
        self.tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if missing := _TABLES - self.tables:
            raise ConfigError(
                f"{str(self._file)!r} is only half made: it lacks {', '.join(sorted(missing))}. If the run has just "
                "been started, try again in a moment; otherwise it was stopped before it began: start it again"
            )

    def __enter__(self) -> ReadStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Return all rows of a query.

        Raises:
            StorageError: the file is damaged.
        """
        with self._lock, storage(self._file):
            return self._db.execute(query, values).fetchall()

    def value(self, query: str, *values: Any) -> Any:
        """Return the first column of the first row, or None."""
        return self._one(query, *values)


def _mode(file: Path) -> str:
    # Without a log beside it nobody writes, and a database in a folder that cannot be written opens only like this.
    return "mode=ro" if file.with_name(f"{file.name}-wal").exists() else "mode=ro&immutable=1"


def _no_run(folder: Path) -> str:
    shown = str(folder)
    if not folder.exists():
        return f"there is no folder {shown!r}; name the folder of a run, such as runs/demo"
    if not folder.is_dir():
        return f"{shown!r} is a file; expected the folder of a run, such as runs/demo"
    if (folder / "run.lock").exists():
        return (
            f"the run in {shown!r} is only half made: there is no {_FILE}. If it has just been started, try again in a "
            "moment; otherwise it was stopped before it began: start it again"
        )
    inner = sorted(f.parent.name for f in folder.glob(f"*/{_FILE}"))
    hint = f"; there are runs inside it: {', '.join(inner[:5])}" if inner else ""
    return f"{shown!r} holds no run of woodshed (there is no {_FILE}){hint}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """The process at work on a run."""

    pid: int
    since_s: float
    """Unix time at which it took the run's folder."""


@dataclass(frozen=True)
class RunReader:
    """A run's folder. Every answer opens the files anew, so that a run that goes on is seen as it is now."""

    folder: Path
    memory: dict[str, Any] = field(default_factory=dict, compare=False)
    """What was worked out of rows that do not change any more."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @contextmanager
    def store(self) -> Iterator[ReadStore]:
        """Open the store for one answer.

        Raises:
            ConfigError: see `ReadStore`.
        """
        with closing(ReadStore(self.folder)) as store:
            yield store

    def settings(self) -> dict[str, Any]:
        """Return the settings in `config.json`; empty for a run that has not written them yet.

        Raises:
            ConfigError: the file cannot be read as JSON.
        """
        file = self.folder / "config.json"
        return read_settings(file) if file.is_file() else {}

    def process(self) -> Process | None:
        """Return the process that trains the run now, or None."""
        lock = self.folder / "run.lock"
        try:
            pid, since_s = int(lock.read_text()), lock.stat().st_mtime
            started_s = psutil.Process(pid).create_time()
        except (OSError, ValueError, psutil.Error):
            return None
        # A process that began after the lock was written has only inherited the number.
        return Process(pid=pid, since_s=since_s) if started_s <= since_s + 1 and _holds(pid, lock) else None

    def is_finished(self) -> bool:
        """Whether the run took all its steps and wrote its report."""
        with self.store() as store:
            return bool(store.fact("finished"))


def _holds(pid: int, lock: Path) -> bool:
    """Whether a process has the lock file open; True where the system does not say."""
    try:
        return any(Path(f.path) == lock.resolve() for f in psutil.Process(pid).open_files())
    except psutil.Error:
        return True


def newest_runs(folder: Path) -> list[Path]:
    """Return the runs in a folder such as `runs`, the one that changed last first."""
    found = {f.parent: max(_changed(f), _changed(f.with_name(f"{_FILE}-wal"))) for f in folder.glob(f"*/{_FILE}")}
    return sorted(found, key=lambda run: found[run], reverse=True)


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def plain(value: Any) -> Any:
    """Return JSON values without numbers that JSON cannot say: NaN and the infinities become None."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)
