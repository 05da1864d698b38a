"""A file of traces of any known format → traces, with notes on what could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from woodshed.errors import ConfigError
from woodshed.traces.conversation import Trace
from woodshed.traces.entries import Entry, entries
from woodshed.traces.messages import from_messages
from woodshed.traces.notes import Notes
from woodshed.traces.span_records import SpanRecord, is_spans, span_records

_KEYS_SHOWN = 6
_EXPECTED = (
    'trajectories of ATIF ({"schema_version": "ATIF-v1.8", "steps": [...]}), spans of model calls by OpenInference or '
    'the GenAI conventions (OTLP\'s JSON, or a list or lines of spans), or lines of {"messages": [...], "tools": [...]}'
)


class Format(StrEnum):
    """A format of traces."""

    atif = "atif"
    openinference = "openinference"
    messages = "messages"


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What a file holds."""

    traces: tuple[Trace, ...]
    notes: Notes
    formats: Mapping[Format, int]
    """Format → how many entries of the file have it."""


def read_traces(path: Path | str, format: Format | str | None = None) -> Read:
    """Return the traces of a file, or of the `.json` and `.jsonl` files of a folder.

    Args:
        path: The file or folder.
        format: `atif`, `openinference` or `messages`; None recognises each entry by its content.

    Raises:
        ConfigError: nothing in it can be read; the message says what is there and what was expected.
    """
    path, notes = Path(path), Notes()
    named = None if format is None else Format(format)
    found = entries(path, notes)
    traces: list[Trace | None] = []
    spans: list[SpanRecord] = []
    formats: Counter[Format] = Counter()
    for entry in found:
        known = named or recognised(entry.value)
        match known:
            case Format.atif:
                traces.append(_atif(entry, notes))
            case Format.openinference:
                spans += _spans(entry, notes)
            case Format.messages:
                traces.append(from_messages(entry.value, entry.place, notes))
            case None:
                notes.skip(entry.place, f"no known format: it is {_described(entry.value)}")
        if known is not None:
            formats[known] += 1
    if spans:
        from woodshed.traces.from_spans import from_spans

        traces += from_spans(spans, notes)
    usable = tuple(trace for trace in traces if trace is not None)
    if not usable:
        reasons = "".join(f"\n  {line}" for line in notes.lines()) or "\n  it is empty"
        hint = "" if named is None else f" It was read as {named}, as --format says; without it, the content decides."
        raise ConfigError(f"no trace in {str(path)!r} can be read:{reasons}\nExpected {_EXPECTED}.{hint}")
    return Read(traces=usable, notes=notes, formats=formats)


def recognised(value: Any) -> Format | None:
    """Return the format of a JSON value by its content, or None."""
    if isinstance(value, list):
        is_talk = bool(value) and all(isinstance(m, dict) and "role" in m for m in value)
        return Format.messages if is_talk else None
    if is_spans(value):
        return Format.openinference
    if isinstance(value, dict) and "steps" in value and ("schema_version" in value or "agent" in value):
        return Format.atif
    return Format.messages if isinstance(value, dict) and "messages" in value else None


def _atif(entry: Entry, notes: Notes) -> Trace | None:
    from woodshed.traces.from_atif import from_atif

    if not isinstance(entry.value, dict):
        notes.skip(entry.place, f"not a trajectory of ATIF: it is {_described(entry.value)}")
        return None
    return from_atif(entry.value, entry.place, notes)


def _spans(entry: Entry, notes: Notes) -> list[SpanRecord]:
    if not is_spans(entry.value):
        notes.skip(entry.place, f"no span: it is {_described(entry.value)}")
        return []
    try:
        return list(span_records(entry.value, entry.place))
    except (AttributeError, TypeError, KeyError, ValueError, RecursionError) as error:
        notes.skip(entry.place, f"no span that can be read: {error}")
        return []


def _described(value: Any) -> str:
    if isinstance(value, dict):
        keys = ", ".join(map(repr, list(value)[:_KEYS_SHOWN]))
        return f"an object with {keys}{', …' if len(value) > _KEYS_SHOWN else ''}" if value else "an empty object"
    return f"a {type(value).__name__}"
