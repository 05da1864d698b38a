"""Files that are there whole or not at all: written aside, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from woodshed.training.run.storage import storage


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Yield a text file that becomes `path` when the block ends, and vanishes if it fails.

    A kill or a full disk at any moment leaves the old file or the new one.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.tmp")
    with storage(path):
        try:
            with aside.open("w", encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` as a `whole_file`."""
    with whole_file(path) as file:
        file.write(text)
