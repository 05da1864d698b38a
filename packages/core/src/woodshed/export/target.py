"""The folder that an export makes: there whole, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from woodshed.errors import ConfigError, StorageError, WoodshedError


def check_free(folder: Path) -> None:
    """Raise ConfigError where `folder` is a file, or has something in it."""
    if folder.is_file():
        raise ConfigError(f"{str(folder)!r} is a file; expected a new or empty folder to export to (`--to`)")
    if folder.is_dir() and (there := sorted(path.name for path in folder.iterdir())):
        raise ConfigError(
            f"{str(folder)!r} is not empty (there is {there[0]!r}); give a new or empty folder to export to (`--to`)"
        )


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `folder` at the end of the block; after an error it is gone.

    Raises:
        ConfigError: Something is in `folder` already.
        StorageError: The disk refuses it.
    """
    check_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            yield aside
            aside.chmod(0o755)  # mkdtemp's is for its owner alone
            check_free(folder)
            aside.replace(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        if isinstance(error, WoodshedError):
            raise
        raise StorageError(
            f"{str(folder)!r} cannot be written: {error.strerror or error}. Nothing was kept of the export; make room, "
            "or give another folder (`--to`)"
        ) from error
