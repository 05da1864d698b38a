"""A run's folder: SQLite (WAL) for trajectories, judgements and steps; plain JSON for its configuration."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from woodshed.capture import new_id
from woodshed.errors import ConfigError
from woodshed.training.run.whole_file import write_whole
from woodshed.types import Judgement, StepReport, Trajectory

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trajectories (
    slot TEXT PRIMARY KEY,
    rollout_id TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS judgements (group_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
    step_id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    body TEXT NOT NULL,
    row TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, body TEXT NOT NULL);
"""


class RunStore:
    """The finished rollouts, judgements and steps of a run. Every write is committed before it returns."""

    def __init__(self, folder: Path) -> None:
        """Open or create the run's database in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = threading.Lock()
        self._history: list[dict[str, Any]] = []
        file = folder / "run.sqlite"
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        try:
            file.chmod(0o600)  # it holds what the agent read and wrote
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ConfigError(
                f"{str(file)!r} cannot be used as a run's database: {error}. Restore a copy, choose another run_dir, "
                "or move the file away to start the run again"
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _one(self, query: str, *values: Any) -> Any:
        with self._lock:
            row = self._db.execute(query, values).fetchone()
        return row[0] if row else None

    def _put(self, query: str, *values: Any) -> None:
        with self._lock:
            self._db.execute(query, values)

    def claim(self, settings: dict[str, Any], limits: dict[str, Any] | None = None) -> None:
        """Write the run's settings. They must equal those of an unfinished run in the folder, except for the limits.

        Raises:
            ConfigError: the folder contains a run with other settings.
        """
        path = self.folder / "config.json"
        wanted = json.loads(json.dumps(settings))
        stored = _settings_in(path) if path.exists() else wanted
        stored.pop("limits", None)
        if stored != wanted:
            names = sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))
            raise ConfigError(
                f"{str(self.folder)!r} holds an unfinished run with other settings ({', '.join(names)} differ). "
                "Use the same settings to resume it, choose another run_dir, or pass fresh=True (`--fresh`) to start "
                "a new run"
            )
        write_whole(path, json.dumps({**settings, **({"limits": limits} if limits else {})}, indent=2) + "\n")

    def trajectory(self, key: str) -> Trajectory | None:
        """Return the finished rollout stored under `key` (`step/scenario/number`, column `slot`), or None."""
        body = self._one("SELECT body FROM trajectories WHERE slot = ?", key)
        return Trajectory.model_validate_json(body) if body else None

    def save_trajectory(self, key: str, trajectory: Trajectory) -> None:
        """Store a finished rollout."""
        self._put(
            "INSERT OR REPLACE INTO trajectories VALUES (?, ?, ?)",
            key, trajectory.rollout_id, trajectory.model_dump_json(),
        )  # fmt: skip

    def judgement(self, group_id: str) -> Judgement | None:
        """Return a group's judgement, or None."""
        body = self._one("SELECT body FROM judgements WHERE group_id = ?", group_id)
        return Judgement.model_validate_json(body) if body else None

    def save_judgement(self, group_id: str, judgement: Judgement) -> None:
        """Store a group's judgement."""
        self._put("INSERT OR REPLACE INTO judgements VALUES (?, ?)", group_id, judgement.model_dump_json())

    def set_aside(self, first_step: int) -> int:
        """Set aside the rollouts and judgements of a step and all later ones, so that they are not trained.

        Returns:
            The number of rollouts.
        """
        later = "CAST(substr({0}, 1, instr({0}, '/') - 1) AS INTEGER) >= ? AND {0} GLOB '[0-9]*'"
        return self._rename("aside", later, first_step)

    def set_failed_aside(self, group: str) -> None:
        """Set aside a step or an evaluation that failed as a whole, such as `7` or `after`; it is sampled again."""
        self._rename("failed", "{0} GLOB ? || '/*'", group)

    def _rename(self, label: str, where: str, value: Any) -> int:
        """Prefix the keys of matching rows in one transaction, which hides them; return the number of rollouts."""
        label = f"{label}-{self._one('SELECT count(*) FROM trajectories')}"
        with self._lock, self._db:
            self._db.execute("BEGIN")
            for table, key in (("judgements", "group_id"), ("trajectories", "slot")):
                cursor = self._db.execute(
                    f"UPDATE {table} SET {key} = ? || '/' || {key} WHERE {where.format(key)}", (label, value)
                )
        return cursor.rowcount

    def step(self, step_id: str) -> tuple[StepReport, dict[str, Any]] | None:
        """Return a finished step's report and history row, or None."""
        with self._lock:
            stored = self._db.execute("SELECT body, row FROM steps WHERE step_id = ?", (step_id,)).fetchone()
        return (StepReport.model_validate_json(stored[0]), json.loads(stored[1])) if stored else None

    def save_step(self, position: int, report: StepReport, row: dict[str, Any]) -> None:
        """Store a finished step; its row must be plain JSON."""
        self._put(
            "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?)",
            report.step_id, position, report.model_dump_json(), json.dumps(row),
        )  # fmt: skip
        if position < len(self._history):
            with self._lock:
                self._history = []  # a step was replaced: all is read anew

    def add_warnings(self, warnings: Sequence[str]) -> None:
        """Store warnings of the run, each text once, in the order in which they came."""
        known = self.fact("warnings") or []
        self.save_fact("warnings", [*known, *(w for w in dict.fromkeys(warnings) if w not in known)])

    def history(self) -> list[dict[str, Any]]:
        """Return one row per finished step, oldest first."""
        with self._lock:
            # Only what is new is read: another process may add to the same file.
            query = "SELECT row FROM steps WHERE position >= ? ORDER BY position"
            self._history += [json.loads(r[0]) for r in self._db.execute(query, (len(self._history),))]
            return list(self._history)

    def run_id(self) -> str:
        """Return the run's id on the engine; it stays the same when the run is resumed."""
        if (run_id := self.fact("run_id")) is None:
            self.save_fact("run_id", run_id := new_id())
        return str(run_id)

    def fact(self, name: str) -> Any:
        """Return a named value of the run (plain JSON), or None."""
        body = self._one("SELECT body FROM facts WHERE name = ?", name)
        return json.loads(body) if body else None

    def save_fact(self, name: str, value: Any) -> None:
        """Store a named value of the run (plain JSON)."""
        self._put("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, json.dumps(value))

    @contextmanager
    def timed(self, start: float) -> Iterator[None]:
        """Add the seconds since `start` (by `time.perf_counter`) to the run's total when the block ends or raises."""
        try:
            yield
        finally:
            self.save_fact("seconds", (self.fact("seconds") or 0.0) + time.perf_counter() - start)


def _settings_in(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{str(path)!r} cannot be read as a run's settings: {error}. Restore a copy, or move the file away if you "
            "are sure that the run had today's settings"
        ) from error
