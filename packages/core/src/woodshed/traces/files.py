"""Files of traces that are written: whole or not at all, and never over another one unasked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from woodshed.errors import ConfigError
from woodshed.traces.conversation import strict_json
from woodshed.training.run.storage import storage
from woodshed.training.run.whole_file import whole_file

_LINE_BREAKS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}


@contextmanager
def written(path: Path, *, overwrite: bool) -> Iterator[TextIO]:
    """Yield a text file that becomes `path` when the block ends, and vanishes if it fails.

    Raises:
        ConfigError: there is a file already.
        StorageError: the disk is full, or the folder cannot be written.
    """
    refuse_existing(path, overwrite=overwrite)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        yield file


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise ConfigError where a file would be replaced, or a folder is in the way."""
    if path.is_dir():
        raise ConfigError(f"{str(path)!r} is a folder; expected the name of a file")
    if path.exists() and not overwrite:
        raise ConfigError(f"{str(path)!r} is there already; choose another name, or replace it with --overwrite")


def json_line(value: Any) -> str:
    """Return one line of JSON, for readers that split lines at every line break of Unicode, too."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a number like 1e999, which JSON can say and cannot give back
        text = json.dumps(strict_json(value), ensure_ascii=False, allow_nan=False)
    return text.translate(_LINE_BREAKS) + "\n"
