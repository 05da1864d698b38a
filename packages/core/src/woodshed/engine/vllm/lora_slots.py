"""One policy's LoRA versions in its vLLM: each has its own name, so a swap neither stops calls nor mixes weights."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from woodshed.engine.vllm.model_server import ModelServer
from woodshed.errors import EngineError

_TRIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraVersion:
    """One version of a policy's weights, loaded in vLLM."""

    name: str
    """Model name under which vLLM serves it."""
    version: int
    """0 is the base model; every optimizer step adds one."""
    path: Path | None
    """Folder of the LoRA in PEFT's layout; None for the base model."""


class LoraSlots:
    """The versions that vLLM has loaded: which of them new calls get, and how that changes.

    A new version is loaded under its own name, then new calls go to it; the previous version stays loaded until its
    last call has ended. So a call uses exactly one version of the weights from its first token to its last, no call
    waits, and vLLM's prefix cache, which is keyed by the adapter's name, cannot return another version's blocks.

    Loading in place (`load_inplace`) would need only one name. But vLLM 0.32 then reads the adapter from disk before
    every decoding step, because the flag stays on the requests.
    """

    def __init__(self, server: ModelServer, http: aiohttp.ClientSession) -> None:
        """Start at version 0: the base model, without an adapter."""
        self._run = 0
        """Counts the runs that have trained this model, so that no two LoRA versions share a name."""
        self._server = server
        self._http = http
        self._current = LoraVersion(name=server.model.name, version=0, path=None)
        self._in_flight: Counter[str] = Counter()
        self._swap_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        server.prepare = self._reload

    @property
    def version(self) -> int:
        """Version of the weights that new calls get."""
        return self._current.version

    @contextmanager
    def lease(self) -> Iterator[LoraVersion]:
        """Yield the newest version, which stays loaded until the block ends."""
        lora = self._current
        self._in_flight[lora.name] += 1
        try:
            yield lora
        finally:
            self._in_flight[lora.name] -= 1
            self._unload_if_idle(lora)

    async def swap(self, version: int, path: Path) -> None:
        """Load the LoRA in `path` and send new calls to it; nothing happens if that version is current already.

        Raises:
            EngineError: vLLM does not load it; new calls keep the version they had.
        """
        async with self._swap_lock:
            if version == self._current.version:
                return
            run = f".{self._run}" if self._run else ""
            lora = LoraVersion(name=f"{self._server.model.name}@{version}{run}", version=version, path=path)
            await self._load_with_retry(lora)
            previous, self._current = self._current, lora
            self._unload_if_idle(previous)

    def _unload_if_idle(self, lora: LoraVersion) -> None:
        """Unload a version that is not current and that no call uses."""
        if lora.path is not None and lora is not self._current and not self._in_flight[lora.name]:
            del self._in_flight[lora.name]
            task = asyncio.ensure_future(self._unload(lora))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def reset_to_base(self) -> None:
        """Send new calls to the base model, version 0; later versions belong to another run and get other names."""
        async with self._swap_lock:
            self._run += 1
            previous, self._current = self._current, LoraVersion(name=self._server.model.name, version=0, path=None)
            self._unload_if_idle(previous)

    async def _load_with_retry(self, lora: LoraVersion) -> None:
        """Load a version, and try again if the server dies meanwhile."""
        for _ in range(_TRIES):
            await self._server.ready()
            generation = self._server.generation
            try:
                await self._load(lora)
                return
            except (aiohttp.ClientError, TimeoutError) as error:
                if not await self._server.ready_after(generation):
                    raise EngineError(f"vLLM did not load adapter version {lora.version}: {error}") from error
        raise EngineError(f"vLLM died {_TRIES} times while it loaded adapter version {lora.version}")

    async def _reload(self) -> None:
        """Load the current version again, after a restart."""
        if self._current.path is not None:
            await self._load(self._current)

    async def _load(self, lora: LoraVersion) -> None:
        body = {"lora_name": lora.name, "lora_path": str(lora.path)}
        async with self._post("load", body) as reply:
            if reply.status != 200 and not await self._is_loaded(lora):
                raise EngineError(
                    f"vLLM refused adapter version {lora.version} ({str(lora.path)!r}): {await reply.text()}"
                )

    async def _is_loaded(self, lora: LoraVersion) -> bool:
        """Whether vLLM has the version: an earlier attempt may have succeeded although its answer was lost."""
        async with self._http.get(f"{self._server.url}/v1/models", headers=self._server.headers) as reply:
            return any(card["id"] == lora.name for card in (await reply.json())["data"])

    async def _unload(self, lora: LoraVersion) -> None:
        with suppress(aiohttp.ClientError, TimeoutError):
            body = {"lora_name": lora.name}
            async with self._post("unload", body) as reply:
                await reply.read()

    def _post(self, action: str, body: dict[str, str]) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        url = f"{self._server.url}/v1/{action}_lora_adapter"
        return self._http.post(url, json=body, headers=self._server.headers)
