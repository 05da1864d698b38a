"""Verdicts cached by content, so that no judge request is paid for twice."""

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
    """Stores verdicts by a hash of the whole judge request, and the cost of all judge replies so far."""

    def get(self, key: str) -> Sequence[AttemptScore] | None:
        """Return the stored scores, or None."""

    def put(self, key: str, scores: Sequence[AttemptScore]) -> None:
        """Store `scores` under `key`."""

    def pay(self, usd: float) -> None:
        """Record the cost of one reply, usable or not, in USD."""

    def paid_usd(self) -> float:
        """Return the cost of all replies in USD."""


class MemoryCache:
    """A cache in the memory of this process."""

    def __init__(self) -> None:
        self._verdicts: dict[str, tuple[AttemptScore, ...]] = {}
        self._payments: list[float] = []

    def get(self, key: str) -> Sequence[AttemptScore] | None:
        """Return the stored scores, or None."""
        return self._verdicts.get(key)

    def put(self, key: str, scores: Sequence[AttemptScore]) -> None:
        """Store `scores` under `key`."""
        self._verdicts[key] = tuple(scores)

    def pay(self, usd: float) -> None:
        """Record the cost of one reply in USD."""
        self._payments.append(usd)

    def paid_usd(self) -> float:
        """Return the cost of all replies in USD."""
        return math.fsum(self._payments)


class SqliteCache:
    """A cache in a SQLite file. Several processes may share it, and it survives a killed process."""

    def __init__(self, path: Path | str) -> None:
        """Open the file; create it and its folder if they are missing.

        Raises:
            ConfigError: the file is not a SQLite database, or cannot be written.
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
        """Return the stored scores, or None."""
        with self._lock:
            row = self._database.execute("SELECT body FROM verdicts WHERE key = ?", (key,)).fetchone()
        return [AttemptScore(**s | {"steps": tuple(s["steps"])}) for s in json.loads(row[0])] if row else None

    def put(self, key: str, scores: Sequence[AttemptScore]) -> None:
        """Store `scores` under `key`."""
        body = json.dumps([asdict(s) for s in scores])
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (key, body, time.time()))

    def pay(self, usd: float) -> None:
        """Record the cost of one reply in USD."""
        with self._lock:
            self._database.execute("INSERT INTO payments VALUES (?, ?)", (usd, time.time()))

    def paid_usd(self) -> float:
        """Return the cost of all replies in USD."""
        with self._lock:
            return float(self._database.execute("SELECT total(usd) FROM payments").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()
