"""A run's folder: SQLite (WAL) for trajectories, judgements and steps; plain JSON for its configuration."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from woodshed.capture import new_id
from woodshed.errors import ConfigError
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
    """What a run has finished so far; every write is durable before it returns."""

    def __init__(self, folder: Path) -> None:
        """Open or create the run's database in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = threading.Lock()
        self._db = sqlite3.connect(folder / "run.sqlite", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _one(self, query: str, *values: Any) -> Any:
        with self._lock:
            found = self._db.execute(query, values).fetchone()
        return found[0] if found else None

    def _put(self, query: str, *values: Any) -> None:
        with self._lock:
            self._db.execute(query, values)

    def claim(self, settings: dict[str, Any], limits: dict[str, Any] | None = None) -> None:
        """Write the run's settings; those an unfinished run in this folder has must be the same, but for its limits.

        Raises:
            ConfigError: the folder holds a run with other settings.
        """
        path = self.folder / "config.json"
        wanted = json.loads(json.dumps(settings))
        found = json.loads(path.read_text()) if path.exists() else wanted
        found.pop("limits", None)
        if found != wanted:
            names = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            raise ConfigError(
                f"{str(self.folder)!r} holds an unfinished run with other settings ({', '.join(names)} differ). "
                "Run it with the same settings to go on, choose another run_dir, or pass fresh=True (`--fresh`) to set "
                "it aside and start anew"
            )
        path.write_text(json.dumps({**settings, **({"limits": limits} if limits else {})}, indent=2) + "\n")

    def trajectory(self, slot: str) -> Trajectory | None:
        """Return the finished rollout of a slot (`step/group/number`), if any."""
        body = self._one("SELECT body FROM trajectories WHERE slot = ?", slot)
        return Trajectory.model_validate_json(body) if body else None

    def save_trajectory(self, slot: str, trajectory: Trajectory) -> None:
        """Keep a finished rollout."""
        self._put(
            "INSERT OR REPLACE INTO trajectories VALUES (?, ?, ?)",
            slot, trajectory.rollout_id, trajectory.model_dump_json(),
        )  # fmt: skip

    def judgement(self, group_id: str) -> Judgement | None:
        """Return a group's verdict, if it has one."""
        body = self._one("SELECT body FROM judgements WHERE group_id = ?", group_id)
        return Judgement.model_validate_json(body) if body else None

    def save_judgement(self, group_id: str, judgement: Judgement) -> None:
        """Keep a group's verdict."""
        self._put("INSERT OR REPLACE INTO judgements VALUES (?, ?)", group_id, judgement.model_dump_json())

    def set_aside(self, first_step: int) -> int:
        """Put away the rollouts and verdicts of a step and those after it, never to be trained; return how many."""
        later = "CAST(substr({0}, 1, instr({0}, '/') - 1) AS INTEGER) >= ? AND {0} GLOB '[0-9]*'"
        return self._put_away("aside", later, first_step)

    def set_failed_aside(self, group: str) -> None:
        """Put away what failed as a whole, such as step `7` or the evaluation `after`, so that it is sampled anew."""
        self._put_away("failed", "{0} GLOB ? || '/*'", group)

    def _put_away(self, mark: str, where: str, value: Any) -> int:
        """Rename what is found, in one transaction, so that no slot has it any more."""
        mark = f"{mark}-{self._one('SELECT count(*) FROM trajectories')}"
        with self._lock, self._db:
            self._db.execute("BEGIN")
            for table, key in (("judgements", "group_id"), ("trajectories", "slot")):
                done = self._db.execute(
                    f"UPDATE {table} SET {key} = ? || '/' || {key} WHERE {where.format(key)}", (mark, value)
                )
        return done.rowcount

    def step(self, step_id: str) -> tuple[StepReport, dict[str, Any]] | None:
        """Return a finished step's report and its row of the history, if it was taken."""
        with self._lock:
            found = self._db.execute("SELECT body, row FROM steps WHERE step_id = ?", (step_id,)).fetchone()
        return (StepReport.model_validate_json(found[0]), json.loads(found[1])) if found else None

    def save_step(self, position: int, report: StepReport, row: dict[str, Any]) -> None:
        """Keep a finished step."""
        self._put(
            "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?)",
            report.step_id, position, report.model_dump_json(), json.dumps(row),
        )  # fmt: skip

    def history(self) -> list[dict[str, Any]]:
        """Return one row a finished step, oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT row FROM steps ORDER BY position").fetchall()
        return [json.loads(r[0]) for r in rows]

    def run_id(self) -> str:
        """Return what the engine knows this run by, the same however often it is gone on with."""
        if (known := self.fact("run_id")) is None:
            self.save_fact("run_id", known := new_id())
        return str(known)

    def fact(self, name: str) -> Any:
        """Return a named figure of the run (plain JSON), or None."""
        body = self._one("SELECT body FROM facts WHERE name = ?", name)
        return json.loads(body) if body else None

    def save_fact(self, name: str, value: Any) -> None:
        """Keep a named figure of the run."""
        self._put("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, json.dumps(value))

    @contextmanager
    def timed(self, began: float) -> Iterator[None]:
        """Add the seconds since `began`, of `time.perf_counter`, to the run's when the block ends, however it ends."""
        try:
            yield
        finally:
            self.save_fact("seconds", (self.fact("seconds") or 0.0) + time.perf_counter() - began)
