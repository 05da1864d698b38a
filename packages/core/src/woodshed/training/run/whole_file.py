"""Files that are there whole or not at all: written aside, then renamed."""

from __future__ import annotations

import os
from pathlib import Path

from woodshed.training.run.storage import storage


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path`, so that a kill or a full disk at any moment leaves the old file or the new one.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.tmp")
    with storage(path):
        try:
            with aside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
