"""One policy's LoRA in its vLLM: two slots used in turn, so that a swap stops nothing and mixes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from etude.engine.server.supervisor import ModelServer
from etude.errors import EngineError

_SLOTS = ("etude-slot-a", "etude-slot-b")
_TRIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """Weights that vLLM has loaded: under which name calls reach them, and which version they are."""

    name: str
    version: int
    path: Path | None


class AdapterSlots:
    """Which weights new calls get, and how they change.

    A new version is loaded into the slot that does not answer, after the last call it still serves has ended. Then new
    calls go to it. So a call has exactly one version of the weights from its first token to its last, and no call waits.
    Each version has a path of its own: vLLM's prefix cache is keyed by it, and cannot serve another version's blocks.
    """

    def __init__(self, server: ModelServer, http: aiohttp.ClientSession) -> None:
        """Start at version 0: the base model, without an adapter."""
        self.swaps = 0
        self._server = server
        self._http = http
        self._current = Adapter(name=server.model.name, version=0, path=None)
        self._in_flight: dict[str, int] = {}
        self._idle = asyncio.Condition()
        self._swapping = asyncio.Lock()
        server.prepare = self._reload

    @property
    def version(self) -> int:
        """Version of the weights that new calls get."""
        return self._current.version

    @contextmanager
    def lease(self) -> Iterator[Adapter]:
        """Yield the newest weights, and keep their slot from being overwritten meanwhile."""
        adapter = self._current
        self._in_flight[adapter.name] = self._in_flight.get(adapter.name, 0) + 1
        try:
            yield adapter
        finally:
            self._in_flight[adapter.name] -= 1
            if not self._in_flight[adapter.name] and self._swapping.locked():
                asyncio.ensure_future(self._wake())

    async def swap(self, version: int, path: Path) -> None:
        """Load an adapter and send new calls to it; a version that is current already is left alone."""
        async with self._swapping:
            if version == self._current.version:
                return
            slot = _SLOTS[1] if self._current.name == _SLOTS[0] else _SLOTS[0]
            async with self._idle:
                await self._idle.wait_for(lambda: not self._in_flight.get(slot))
            adapter = Adapter(name=slot, version=version, path=path)
            await self._load_alive(adapter)
            self._current = adapter
            self.swaps += 1

    async def _load_alive(self, adapter: Adapter) -> None:
        """Load into a server that is up, and once more if it dies meanwhile."""
        for _ in range(_TRIES):
            await self._server.ready()
            generation = self._server.generation
            try:
                await self._load(adapter)
                return
            except (aiohttp.ClientError, TimeoutError) as error:
                if not await self._server.ready_after(generation):
                    raise EngineError(f"vLLM did not load adapter version {adapter.version}: {error}") from error
        raise EngineError(f"vLLM died {_TRIES} times while it loaded adapter version {adapter.version}")

    async def _reload(self) -> None:
        """After a restart: load again what calls are to get."""
        if self._current.path is not None:
            await self._load(self._current)

    async def _load(self, adapter: Adapter) -> None:
        order = {"lora_name": adapter.name, "lora_path": str(adapter.path), "load_inplace": True}
        async with self._http.post(f"{self._server.url}/v1/load_lora_adapter", json=order) as reply:
            if reply.status != 200:
                raise EngineError(
                    f"vLLM refused adapter version {adapter.version} ({str(adapter.path)!r}): {await reply.text()}"
                )

    async def _wake(self) -> None:
        async with self._idle:
            self._idle.notify_all()
