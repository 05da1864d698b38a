"""A run's store, opened for reading only: the folder stays as it is, whether or not a process is at work on it."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

from woodshed.errors import ConfigError
from woodshed.training.run.storage import storage
from woodshed.training.run.store import DATABASE, FORMAT, RunStore

_TABLES = {"trajectories", "judgements", "steps", "facts"}


class ReadStore(RunStore):
    """A run's store that cannot write. Use it as a context manager, for one answer."""

    def __init__(self, folder: Path) -> None:
        """Open the run's database.

        Raises:
            ConfigError: there is no run's database, it is not finished being made, or a newer woodshed wrote it.
        """
        self.folder = folder
        self._file = folder / DATABASE
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
            f"the run in {shown!r} is only half made: there is no {DATABASE}. If it has just been started, try again "
            "in a moment; otherwise it was stopped before it began: start it again"
        )
    inner = sorted(f.parent.name for f in folder.glob(f"*/{DATABASE}"))
    hint = f"; there are runs inside it: {', '.join(inner[:5])}" if inner else ""
    return f"{shown!r} holds no run of woodshed (there is no {DATABASE}){hint}"
