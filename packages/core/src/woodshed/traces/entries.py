"""A file or folder → its entries, each with its place: lines of JSON, a list, or one document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from woodshed.capture.plain import to_plain
from woodshed.errors import ConfigError
from woodshed.traces.notes import Notes

_SUFFIXES = {".json", ".jsonl", ".ndjson"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One JSON value of a file."""

    place: str
    """Such as `line 3`, or `entry 3` of a list."""
    value: Any


def entries(path: Path, notes: Notes) -> list[Entry]:
    """Return the JSON values in a file, or in the `.json` and `.jsonl` files of a folder; broken lines are noted.

    Raises:
        ConfigError: there is no such file, or it cannot be opened.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
        return [e for file in files for e in _of_file(file, notes, f"{file.relative_to(path)}, ")]
    if not path.is_file():
        raise ConfigError(f"{str(path)!r} is not there; expected a file of traces, or a folder of such files")
    return list(_of_file(path, notes, ""))


def _of_file(path: Path, notes: Notes, prefix: str) -> Iterator[Entry]:
    try:
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    whole = _whole(raw)
    if whole is not None:
        yield from _of_document(whole, prefix, notes)
        return
    for number, line in enumerate(raw.split(b"\n"), start=1):
        place = f"{prefix}line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            notes.skip(place, f"not JSON ({_reason(error)})")
            continue
        yield Entry(place=place, value=_storable(value, place, notes))


def _whole(raw: bytes) -> Any:
    """Return the content of a file that is one JSON document; None for lines."""
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def _of_document(document: Any, prefix: str, notes: Notes) -> Iterator[Entry]:
    rows = document.get("data") if isinstance(document, dict) and isinstance(document.get("data"), list) else document
    if not isinstance(rows, list) or _is_conversation(rows):
        place = f"{prefix}line 1"
        yield Entry(place=place, value=_storable(rows, place, notes))
        return
    for number, value in enumerate(rows, start=1):
        place = f"{prefix}entry {number}"
        yield Entry(place=place, value=_storable(value, place, notes))


def _is_conversation(rows: list[Any]) -> bool:
    return bool(rows) and all(isinstance(row, dict) and "role" in row for row in rows)


def _storable(value: Any, place: str, notes: Notes) -> Any:
    """Return a value whose text can be written as UTF-8; halves of surrogate pairs become U+FFFD."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        notes.ignore(place, ["(half of a surrogate pair; now U+FFFD)"])
        return to_plain(value)
    return value


def _reason(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
