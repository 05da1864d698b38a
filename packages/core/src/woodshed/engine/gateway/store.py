"""Sessions and calls on disk: SQLite in WAL mode, written before an answer's last byte is sent."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from pathlib import Path

import msgspec

from woodshed.engine.client.private_files import make_private
from woodshed.errors import EngineError
from woodshed.types import FORMAT, OpenSession, SealedSession, TokenCall

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    rollout_id TEXT PRIMARY KEY, secret TEXT NOT NULL UNIQUE, policy TEXT NOT NULL, sampling TEXT NOT NULL,
    opened_s REAL NOT NULL, sealed_s REAL, late_calls INTEGER NOT NULL DEFAULT 0, run_id TEXT
);
CREATE TABLE IF NOT EXISTS calls (
    rollout_id TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE, call_id TEXT NOT NULL, started_s REAL NOT NULL,
    record TEXT NOT NULL, PRIMARY KEY (rollout_id, call_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (
    run_id TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (run_id, name)
) WITHOUT ROWID;
"""


def digest_of(secret: str) -> str:
    """Return what is stored of a session's secret: who reads the file cannot speak for the session."""
    return hashlib.sha256(secret.encode()).hexdigest()


class SessionRow(msgspec.Struct, frozen=True):
    """One session as it is stored."""

    rollout_id: str
    digest: str
    policy: str
    sampling: dict[str, object]
    sealed: bool
    run_id: str | None


class Store:
    """The engine's sessions and calls, stored so that they survive `kill -9` of the engine at any point."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            EngineError: The file was written by another version's format.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        # What agents said is nobody else's business. SQLite gives the files beside it the same mode.
        make_private(path)
        # One event loop writes and reads: a statement takes microseconds, less than handing it to a thread.
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA foreign_keys=ON")
        (stored_format,) = self._db.execute("PRAGMA user_version").fetchone()
        if stored_format not in (0, FORMAT):
            raise EngineError(
                f"{str(path)!r} has format {stored_format}, this woodshed reads {FORMAT}; use a new run folder"
            )
        self._db.executescript(_SCHEMA)
        self._upgrade()
        self._db.execute(f"PRAGMA user_version={FORMAT}")

    def _upgrade(self) -> None:
        """Bring a file of an earlier woodshed up to date: it named no runs and held the secrets themselves."""
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(sessions)")}
        if "run_id" not in columns:
            self._db.execute("ALTER TABLE sessions ADD COLUMN run_id TEXT")
            self._db.create_function("digest_of", 1, digest_of, deterministic=True)
            self._db.execute("UPDATE sessions SET secret=digest_of(secret)")

    def open_session(self, session: OpenSession, secret: str) -> None:
        """Store a new session; an unsealed one of the same rollout is deleted with its calls.

        Raises:
            EngineError: The rollout's session was sealed already.
        """
        row = self._db.execute("SELECT sealed_s FROM sessions WHERE rollout_id=?", (session.rollout_id,)).fetchone()
        if row is not None and row[0] is not None:
            raise EngineError(
                f"rollout {session.rollout_id!r} is sealed and cannot be opened again; use a new rollout id"
            )
        sampling = msgspec.json.encode(session.sampling).decode()
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM sessions WHERE rollout_id=?", (session.rollout_id,))
        self._db.execute(
            "INSERT INTO sessions (rollout_id, secret, policy, sampling, opened_s, run_id) VALUES (?, ?, ?, ?, ?, ?)",
            (session.rollout_id, digest_of(secret), session.policy, sampling, time.time(), session.run_id),
        )
        self._db.execute("COMMIT")

    def sessions(self) -> list[SessionRow]:
        """Return every stored session."""
        rows = self._db.execute(
            "SELECT rollout_id, secret, policy, sampling, sealed_s IS NOT NULL, run_id FROM sessions"
        )
        return [
            SessionRow(rollout_id, digest, policy, msgspec.json.decode(sampling), bool(sealed), run_id)
            for rollout_id, digest, policy, sampling, sealed, run_id in rows
        ]

    def record(self, rollout_id: str, call_id: str, started_s: float, call: str) -> None:
        """Store a call (a `TokenCall` as JSON), in place of an earlier one with the same call id."""
        self._db.execute(
            "INSERT OR REPLACE INTO calls (rollout_id, call_id, started_s, record) VALUES (?, ?, ?, ?)",
            (rollout_id, call_id, started_s, call),
        )

    def seal(self, rollout_id: str) -> None:
        """Close a session; closing it again changes nothing."""
        self._db.execute(
            "UPDATE sessions SET sealed_s=? WHERE rollout_id=? AND sealed_s IS NULL", (time.time(), rollout_id)
        )

    def import_session(self, policy: str, secret: str, session: SealedSession) -> None:
        """Store a sealed session with all its calls; a stored session of the same rollout stays as it is."""
        now = time.time()
        self._db.execute("BEGIN IMMEDIATE")
        inserted = self._db.execute(
            "INSERT OR IGNORE INTO sessions (rollout_id, secret, policy, sampling, opened_s, sealed_s) "
            "VALUES (?, ?, ?, '{}', ?, ?)",
            (session.rollout_id, digest_of(secret), policy, now, now),
        )
        if inserted.rowcount:
            for call in session.calls:
                self.record(session.rollout_id, call.call_id, call.started_s, call.model_dump_json())
        self._db.execute("COMMIT")

    def count_late(self, rollout_id: str) -> None:
        """Count a call that came after the seal."""
        self._db.execute("UPDATE sessions SET late_calls=late_calls+1 WHERE rollout_id=?", (rollout_id,))

    def sealed(self, rollout_id: str) -> SealedSession:
        """Return a sealed session with its calls in the order they were made.

        Raises:
            EngineError: There is no such session, or it is still open.
        """
        row = self._db.execute("SELECT late_calls, sealed_s FROM sessions WHERE rollout_id=?", (rollout_id,)).fetchone()
        if row is None:
            raise EngineError(
                f"there is no session for rollout {rollout_id!r} in this engine; was it opened elsewhere?"
            )
        if row[1] is None:
            raise EngineError(f"the session of rollout {rollout_id!r} is still open; seal it first")
        return SealedSession(rollout_id=rollout_id, calls=self.calls(rollout_id), late_calls=row[0])

    def calls(self, rollout_id: str) -> tuple[TokenCall, ...]:
        """Return a rollout's calls so far, in the order they were made."""
        records = self._db.execute(
            "SELECT record FROM calls WHERE rollout_id=? ORDER BY started_s, call_id", (rollout_id,)
        )
        return tuple(TokenCall.model_validate_json(record) for (record,) in records)

    def count(self, run_id: str, name: str, by: int = 1) -> None:
        """Add to one of a run's counts."""
        self._db.execute(
            "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value=value+excluded.value",
            (run_id, name, by),
        )

    def counts(self, run_id: str) -> dict[str, int]:
        """Return a run's counts by name; what was never counted is missing."""
        return dict(self._db.execute("SELECT name, value FROM counts WHERE run_id=?", (run_id,)))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
