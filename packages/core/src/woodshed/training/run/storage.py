"""What the disk refuses, as one error that names the file and says what is kept."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from woodshed.errors import StorageError

_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_REFUSED_BY_SQLITE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_PERM,
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Raise what the disk refuses to store in the block as a `StorageError`; `path` is named if the error names none.

    Raises:
        StorageError: the disk is full, read-only or broken, the file is damaged, or another process keeps it locked.
    """
    try:
        yield
    except (OSError, sqlite3.Error, ExceptionGroup) as error:
        if (refused := _refused(path, error)) is None:
            raise
        raise refused from error


def _refused(path: Path, error: Exception) -> StorageError | None:
    """Return what the disk's refusal is to a user; None for every other error."""
    match error:
        case StorageError():
            return None
        case ExceptionGroup():
            return next((e for inner in error.exceptions if (e := _refused(path, inner)) is not None), None)
        case OSError() if error.errno in _REFUSED:
            return StorageError(_message(error.filename or path, error.strerror or str(error)))
        case sqlite3.Error():
            # The low byte is the kind; the rest of the code is a detail of it. Without a code, the error is ours.
            kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if kind in _DAMAGED:
                return StorageError(f"{str(path)!r} is damaged: {error}. Restore a copy, or start anew elsewhere")
            return StorageError(_message(path, str(error))) if kind in _REFUSED_BY_SQLITE else None
    return None


def _message(path: Path | str | bytes, reason: str) -> str:
    return (
        f"{str(path)!r} cannot be written: {reason}. What the run stored before is kept; make room, or make the folder "
        "writable, and run it again to resume"
    )
