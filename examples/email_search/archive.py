"""A mail archive in SQLite, with full-text search (FTS5)."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLE = (
    "CREATE VIRTUAL TABLE mail USING fts5("
    "id UNINDEXED, sent UNINDEXED, sender, recipient, subject, body, tokenize='porter')"
)
_MOST_WORDS = 16
"""So many words of a search count; it keeps a runaway query short."""


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail of the archive."""

    id: str
    sent: str
    """ISO date and time."""
    sender: str
    recipient: str
    subject: str
    body: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A mail that a search found, in short."""

    id: str
    sent: str
    sender: str
    subject: str
    excerpt: str


class Archive:
    """Mails that many threads may search and read."""

    def __init__(self, mails: Sequence[Mail], file: Path | None = None) -> None:
        """Index the mails, in memory or in a new file."""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(file or ":memory:", check_same_thread=False)
        with self._database:
            self._database.execute(_TABLE)
            rows = [(m.id, m.sent, m.sender, m.recipient, m.subject, m.body) for m in mails]
            self._database.executemany("INSERT INTO mail VALUES (?, ?, ?, ?, ?, ?)", rows)

    def read(self, id: str) -> Mail | None:
        """Return a mail by its id."""
        rows = self._rows("SELECT * FROM mail WHERE id = ?", id)
        return Mail(*rows[0]) if rows else None

    def search(
        self,
        words: Sequence[str],
        *,
        every: bool = True,
        sender: str = "",
        after: str = "",
        before: str = "",
        limit: int = 6,
    ) -> list[Hit]:
        """Return the mails that fit best, newest first.

        Args:
            words: words as `words_of` returns them.
            every: whether each word must occur, or any of them.
            sender: part of the sender's name or address, or empty.
            after: first day, as ISO text, or empty.
            before: last day.
            limit: most hits.
        """
        # In double quotes nothing is an operator of FTS5: neither NEAR nor a minus.
        query = (" AND " if every else " OR ").join(f'"{word}"' for word in words[:_MOST_WORDS])
        rows = self._rows(
            "SELECT id, sent, sender, subject, snippet(mail, 5, '', '', '…', 16) FROM mail WHERE mail MATCH ?"
            " AND instr(lower(sender), lower(?)) AND substr(sent, 1, 10) BETWEEN ? AND ? ORDER BY rank, id LIMIT ?",
            query, sender, after, before or "9999", limit,
        )  # fmt: skip
        return sorted((Hit(*row) for row in rows), key=lambda hit: hit.sent, reverse=True)

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()


def words_of(text: str) -> list[str]:
    """Return what one can search for in a text: its runs of letters and digits, as the index has them."""
    return re.findall(r"[^\W_]+", text)
