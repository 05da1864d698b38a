"""A run's folder, opened for reading only: its store, its settings, and whether a process is at work on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from woodshed.training.run.read_store import ReadStore
from woodshed.training.run.settings import read_settings
from woodshed.training.run.store import DATABASE


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
        with ReadStore(self.folder) as store:
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
    found = {f.parent: max(_changed(f), _changed(f.with_name(f"{DATABASE}-wal"))) for f in folder.glob(f"*/{DATABASE}")}
    return sorted(found, key=lambda run: found[run], reverse=True)


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def plain(value: Any) -> Any:
    """Return JSON values without numbers that JSON cannot say: NaN and the infinities become None."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)
