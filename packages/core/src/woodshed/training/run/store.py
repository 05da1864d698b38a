"""A run's folder: SQLite (WAL) for trajectories, judgements and steps; plain JSON for its configuration."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from woodshed.capture import new_id
from woodshed.errors import ConfigError
from woodshed.training.run.settings import changes, read_settings, refusal
from woodshed.training.run.storage import storage
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
CREATE TABLE IF NOT EXISTS unfinished (
    slot TEXT PRIMARY KEY,
    rollout_id TEXT,
    waiting_s REAL NOT NULL,
    started_s REAL
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, body TEXT NOT NULL);
"""
EVALUATED = ("success", "interval", "measured", "rollouts", "failed", "masked", "seconds")
"""Figures of an evaluation, each a fact such as `success_before`, `success_after_step_4` or `success_after`."""
DATABASE = "run.sqlite"
"""File in a run's folder."""
FORMAT = 1
"""Version of the tables above and of the records in them; a file of a later one is refused."""


class RunStore:
    """The finished rollouts, judgements and steps of a run. Every write is committed before it returns."""

    def __init__(self, folder: Path) -> None:
        """Open or create the run's database in `folder`.

        Raises:
            ConfigError: what is there is no database, or one that a newer woodshed wrote.
            StorageError: it cannot be written.
        """
        self.folder = folder
        self._file = folder / DATABASE
        self._lock = threading.Lock()
        self._history: list[dict[str, Any]] = []
        with storage(self._file):
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._file, check_same_thread=False, isolation_level=None)
            try:
                self._prepare()
            except BaseException as error:
                self._db.close()
                if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                    raise ConfigError(
                        f"{str(self._file)!r} cannot be used as a run's database: {error}. Restore a copy, choose "
                        "another run_dir, or move the file away to start the run again"
                    ) from error
                raise

    def _prepare(self) -> None:
        with suppress(PermissionError):  # another user's file
            self._file.chmod(0o600)  # it holds what the agent read and wrote
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise ConfigError(
                f"{str(self._file)!r} was written by a newer woodshed (format {version}; this one knows up to "
                f"{FORMAT}). Use that woodshed to resume the run, or choose another run_dir; nothing was changed"
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        if version < FORMAT:
            self._db.execute(f"PRAGMA user_version={FORMAT}")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _one(self, query: str, *values: Any) -> Any:
        with self._lock, storage(self._file):
            row = self._db.execute(query, values).fetchone()
        return row[0] if row else None

    def _put(self, query: str, *values: Any) -> None:
        with self._lock, storage(self._file):
            self._db.execute(query, values)

    def claim(
        self,
        settings: dict[str, Any],
        limits: dict[str, Any] | None = None,
        *,
        rollout: Mapping[str, str | None] | None = None,
    ) -> None:
        """Write the run's settings. They must equal those of the run in the folder, except for the limits.

        Args:
            settings: What decides what the run learns.
            limits: What may change when it is resumed.
            rollout: The rollout function, as `Source.described` has it; it finds the folder of a run without a name.

        Raises:
            ConfigError: the folder contains a run with other settings; names each with both values.
            StorageError: they cannot be written.
        """
        path = self.folder / "config.json"
        if path.exists() and (found := changes(read_settings(path), settings, limits or {})):
            finished = bool(self.fact("finished"))
            raise ConfigError(refusal(self.folder, found, limits or {}, finished=finished))
        about = {"limits": limits, "rollout": rollout}
        kept = {name: value for name, value in about.items() if value}
        text = json.dumps({**settings, **kept}, indent=2) + "\n"
        if not path.exists() or path.read_text() != text:
            write_whole(path, text)

    def trajectory(self, key: str) -> Trajectory | None:
        """Return the finished rollout stored under `key` (`step/scenario/number`, column `slot`), or None."""
        body = self._one("SELECT body FROM trajectories WHERE slot = ?", key)
        return Trajectory.model_validate_json(body) if body else None

    def rollout_waits(self, key: str) -> None:
        """Note for a reader of the file that a rollout waits for its turn."""
        self._put("INSERT OR REPLACE INTO unfinished VALUES (?, NULL, ?, NULL)", key, time.time())

    def rollout_runs(self, key: str, rollout_id: str) -> None:
        """Note for a reader of the file that a rollout runs now."""
        self._put("UPDATE unfinished SET rollout_id = ?, started_s = ? WHERE slot = ?", rollout_id, time.time(), key)

    def newest_trajectories(self, count: int) -> list[Trajectory]:
        """Return the rollouts that were stored last, at most `count`."""
        with self._lock, storage(self._file):
            query = "SELECT body FROM trajectories ORDER BY rowid DESC LIMIT ?"
            return [Trajectory.model_validate_json(body) for (body,) in self._db.execute(query, (count,))]

    def save_trajectory(self, key: str, trajectory: Trajectory) -> None:
        """Store a finished rollout."""
        self._put(
            "INSERT OR REPLACE INTO trajectories VALUES (?, ?, ?)",
            key, trajectory.rollout_id, trajectory.model_dump_json(),
        )  # fmt: skip
        self._put("DELETE FROM unfinished WHERE slot = ?", key)

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
        with self._lock, storage(self._file), self._db:
            self._db.execute("BEGIN")
            for table, key in (("judgements", "group_id"), ("trajectories", "slot")):
                cursor = self._db.execute(
                    f"UPDATE {table} SET {key} = ? || '/' || {key} WHERE {where.format(key)}", (label, value)
                )
        return cursor.rowcount

    def reopen(self) -> None:
        """Let further steps follow: what was measured after the last one is kept under that step's number."""
        self._rename_evaluation("after", f"after_step_{len(self.history())}", forget="finished")

    def close_with(self, step: int) -> None:
        """Let what was measured after `step` steps, or was begun to be, be what is measured after the last one."""
        self._rename_evaluation(f"after_step_{step}", "after")

    def _rename_evaluation(self, old: str, new: str, *, forget: str | None = None) -> None:
        """Give the figures and rollouts of an evaluation another name, and forget a fact, in one transaction."""
        names = [(f"{figure}_{new}", f"{figure}_{old}") for figure in EVALUATED]
        old_slot, new_slot = old.replace("_", "-"), new.replace("_", "-")
        with self._lock, storage(self._file), self._db:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM facts WHERE name = ?", (forget,))
            self._db.executemany("UPDATE OR REPLACE facts SET name = ? WHERE name = ?", names)
            self._db.execute(
                "UPDATE OR REPLACE trajectories SET slot = ? || substr(slot, ?) WHERE slot GLOB ? || '/*'",
                (new_slot, len(old_slot) + 1, old_slot),
            )

    def step(self, step_id: str) -> tuple[StepReport, dict[str, Any]] | None:
        """Return a finished step's report and history row, or None."""
        with self._lock, storage(self._file):
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
        with self._lock, storage(self._file):
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

    def facts(self, prefix: str) -> dict[str, Any]:
        """Return the named values of the run whose name starts with `prefix`, by the rest of the name."""
        with self._lock, storage(self._file):
            rows = self._db.execute("SELECT name, body FROM facts WHERE name GLOB ? || '*'", (prefix,)).fetchall()
        return {name.removeprefix(prefix): json.loads(body) for name, body in rows}

    def save_fact(self, name: str, value: Any) -> None:
        """Store a named value of the run (plain JSON)."""
        self._put("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, json.dumps(value))
