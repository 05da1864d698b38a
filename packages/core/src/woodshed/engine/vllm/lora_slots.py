"""One policy's LoRA in its vLLM: a name for every version, so that a swap stops nothing and mixes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from woodshed.engine.vllm.model_server import ModelServer
from woodshed.errors import EngineError

_TRIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """Weights that vLLM has loaded: under which name calls reach them, and which version they are."""

    name: str
    version: int
    path: Path | None


class AdapterSlots:
    """Which weights new calls get, and how they change.

    A new version is loaded under a name of its own, then new calls go to it; the version before stays until its last
    call has ended. So a call has exactly one version of the weights from its first token to its last, no call waits,
    and vLLM's prefix cache, which is keyed by the adapter's name, cannot serve another version's blocks.

    Loading in place (`load_inplace`) would do with one name, but vLLM 0.32 then reads the adapter from disk again
    before every single step of the model, because the flag stays on the requests.
    """

    def __init__(self, server: ModelServer, http: aiohttp.ClientSession) -> None:
        """Start at version 0: the base model, without an adapter."""
        self.swaps = 0
        self._run = 0
        """Counts the runs that have had this model, so that no two adapters ever share a name."""
        self._server = server
        self._http = http
        self._current = Adapter(name=server.model.name, version=0, path=None)
        self._in_flight: Counter[str] = Counter()
        self._swapping = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        server.prepare = self._reload

    @property
    def version(self) -> int:
        """Version of the weights that new calls get."""
        return self._current.version

    @contextmanager
    def lease(self) -> Iterator[Adapter]:
        """Yield the newest weights, and keep them loaded meanwhile."""
        adapter = self._current
        self._in_flight[adapter.name] += 1
        try:
            yield adapter
        finally:
            self._in_flight[adapter.name] -= 1
            self._forget_if_idle(adapter)

    async def swap(self, version: int, path: Path) -> None:
        """Load an adapter and send new calls to it; a version that is current already is left alone."""
        async with self._swapping:
            if version == self._current.version:
                return
            run = f".{self._run}" if self._run else ""
            adapter = Adapter(name=f"{self._server.model.name}@{version}{run}", version=version, path=path)
            await self._load_alive(adapter)
            former, self._current = self._current, adapter
            self.swaps += 1
            self._forget_if_idle(former)

    def _forget_if_idle(self, adapter: Adapter) -> None:
        """Unload a version that no call uses any more."""
        if adapter.path is not None and adapter is not self._current and not self._in_flight[adapter.name]:
            del self._in_flight[adapter.name]
            task = asyncio.ensure_future(self._unload(adapter))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def to_base(self) -> None:
        """Send new calls to the base model, version 0; versions that follow are another run's, under other names."""
        async with self._swapping:
            self._run += 1
            former, self._current = self._current, Adapter(name=self._server.model.name, version=0, path=None)
            self._forget_if_idle(former)

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
        order = {"lora_name": adapter.name, "lora_path": str(adapter.path)}
        async with self._http.post(f"{self._server.url}/v1/load_lora_adapter", json=order) as reply:
            if reply.status != 200 and not await self._has(adapter):
                raise EngineError(
                    f"vLLM refused adapter version {adapter.version} ({str(adapter.path)!r}): {await reply.text()}"
                )

    async def _has(self, adapter: Adapter) -> bool:
        """Whether an earlier try got through, although its answer did not."""
        async with self._http.get(f"{self._server.url}/v1/models") as reply:
            return any(card["id"] == adapter.name for card in (await reply.json())["data"])

    async def _unload(self, adapter: Adapter) -> None:
        with suppress(aiohttp.ClientError, TimeoutError):
            order = {"lora_name": adapter.name}
            async with self._http.post(f"{self._server.url}/v1/unload_lora_adapter", json=order) as reply:
                await reply.read()
