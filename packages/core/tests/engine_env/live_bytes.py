"""What a GPU's allocator would count: the bytes of tensors that were made since, and are alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operators make; those of their inputs were there before."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(s): s for s in storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for storage in storages(out):
            if id(storage) not in given and id(storage) not in self._known:
                self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        number, size = id(storage), storage.nbytes()
        self._known.add(number)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, number, size)

    def _remove(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.now -= size


def storages(of: Any) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_iter(of) if isinstance(x, torch.Tensor)]


def peak_of(run: Callable[[], object]) -> float:
    """Return the most bytes alive while a function runs, beyond those before."""
    with LiveBytes() as live:
        kept = run()
    del kept
    return float(live.peak)
