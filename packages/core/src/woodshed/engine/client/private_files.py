"""Files that hold keys: readable and writable by their owner alone, whoever made them before."""

from __future__ import annotations

import os
from pathlib import Path


def make_private(file: Path) -> None:
    """Create a file that only its owner can read, or make an existing one so; its content stays.

    Raises:
        PermissionError: The file belongs to somebody else.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, also while it is being written."""
    make_private(file)
    file.write_text(text)
