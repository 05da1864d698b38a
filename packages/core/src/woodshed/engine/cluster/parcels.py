"""Files for the nodes: read once, put once into the object store, whichever nodes ask for them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ray

from woodshed.errors import EngineError

_KEPT = 4
"""Parcels that stay in the object store. A node that comes later gets a new one: the files are on the engine's disk."""
_MIB = 2**20


class Parcels:
    """Folders and files of this machine, as references to their bytes."""

    def __init__(self) -> None:
        """Hold none."""
        self._refs: OrderedDict[tuple[object, ...], Any] = OrderedDict()
        self._lock = asyncio.Lock()
        self.put = 0
        """How many were put into the object store."""

    async def of(self, path: Path) -> Any:
        """Return a reference to `{name: bytes}` of the files in a folder, or of one file.

        Raises:
            EngineError: They cannot be read, or the object store has no room for them.
        """
        async with self._lock:
            try:
                return await asyncio.to_thread(self._of, path)
            except OSError as error:
                raise EngineError(f"{str(path)!r} cannot be sent to the nodes: {error}") from error
            except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
                size = sum(file.stat().st_size for file in _files(path)) / _MIB
                raise EngineError(
                    f"the object store of this machine has no room for {str(path)!r} ({size:.0f} MiB): {error}. Start "
                    "Ray with a larger one (`ray start --object-store-memory=BYTES`), or free what fills it"
                ) from error

    def _of(self, path: Path) -> Any:
        files = _files(path)
        key = (path, *((file.name, (found := file.stat()).st_size, found.st_mtime_ns) for file in files))
        if key not in self._refs:
            self._refs[key] = ray.put({file.name: file.read_bytes() for file in files})
            self.put += 1
            while len(self._refs) > _KEPT:
                self._refs.popitem(last=False)
        return self._refs[key]


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
