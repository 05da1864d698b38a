"""What a group's content was judged before: a verdict paid once is not paid again."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from woodshed.errors import ConfigError
from woodshed.rewards.verdict import AttemptScore

_SCHEMA = """
CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, body TEXT NOT NULL, saved_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS payments (usd REAL NOT NULL, paid_s REAL NOT NULL);
"""


class VerdictCache(Protocol):
    """Keeps verdicts by the hash of everything the judge was asked, and what judges have cost so far."""

    def get(self, key: str) -> Sequence[AttemptScore] | None:
        """Return the kept marks, or None."""

    def put(self, key: str, marks: Sequence[AttemptScore]) -> None:
        """Keep `marks` under `key`."""

    def pay(self, usd: float) -> None:
        """Note the price of one reply, usable or not."""

    def paid_usd(self) -> float:
        """Return what all replies have cost."""


class MemoryCache:
    """Verdicts of this process."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[AttemptScore, ...]] = {}
        self._payments: list[float] = []

    def get(self, key: str) -> Sequence[AttemptScore] | None:
        """Return the kept marks, or None."""
        return self._kept.get(key)

    def put(self, key: str, marks: Sequence[AttemptScore]) -> None:
        """Keep `marks` under `key`."""
        self._kept[key] = tuple(marks)

    def pay(self, usd: float) -> None:
        """Note the price of one reply."""
        self._payments.append(usd)

    def paid_usd(self) -> float:
        """Return what all replies have cost."""
        return math.fsum(self._payments)


class SqliteCache:
    """Verdicts in a file; several processes may share it, and a killed one loses nothing it has saved."""

    def __init__(self, path: Path | str) -> None:
        """Open the file, making it and its folder where they are missing.

        Raises:
            ConfigError: the file is no SQLite database or cannot be written.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._database.close()
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"{str(self.path)!r} cannot be used as a verdict cache: {error}; name another file, or move it"
        )

    def get(self, key: str) -> Sequence[AttemptScore] | None:
        """Return the kept marks, or None."""
        with self._lock:
            row = self._database.execute("SELECT body FROM verdicts WHERE key = ?", (key,)).fetchone()
        return [AttemptScore(**mark | {"steps": tuple(mark["steps"])}) for mark in json.loads(row[0])] if row else None

    def put(self, key: str, marks: Sequence[AttemptScore]) -> None:
        """Keep `marks` under `key`."""
        body = json.dumps([asdict(m) for m in marks])
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (key, body, time.time()))

    def pay(self, usd: float) -> None:
        """Note the price of one reply."""
        with self._lock:
            self._database.execute("INSERT INTO payments VALUES (?, ?)", (usd, time.time()))

    def paid_usd(self) -> float:
        """Return what all replies have cost."""
        with self._lock:
            return float(self._database.execute("SELECT total(usd) FROM payments").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()
