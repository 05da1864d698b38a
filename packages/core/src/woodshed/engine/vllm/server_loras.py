"""The LoRA versions that one vLLM server holds: loaded, unloaded once no call uses them, loaded again after a death."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
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


class ServerLoras:
    """What one server holds, and how many calls use each version there."""

    def __init__(self, server: ModelServer, http: aiohttp.ClientSession, current: Callable[[], LoraVersion]) -> None:
        """Hold nothing; `current` says which version new calls get, which is loaded after each start."""
        self.server = server
        self._http = http
        self._current = current
        self._held: dict[str, LoraVersion] = {}
        self._in_flight: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        server.prepare = self._load_again

    def serves(self, lora: LoraVersion) -> bool:
        """Whether calls of a version can be sent here."""
        return lora.path is None or lora.name in self._held

    @contextmanager
    def lease(self, lora: LoraVersion) -> Iterator[None]:
        """Keep a version loaded here until the block ends."""
        self._in_flight[lora.name] += 1
        try:
            yield
        finally:
            self._in_flight[lora.name] -= 1
            self.drop_if_idle(lora)

    def drop_if_idle(self, lora: LoraVersion) -> None:
        """Unload a version that is not current and that no call uses."""
        if lora.path is not None and lora is not self._current() and not self._in_flight[lora.name]:
            del self._in_flight[lora.name]
            if self._held.pop(lora.name, None) is not None:
                task = asyncio.ensure_future(self._unload(lora))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def load(self, lora: LoraVersion, *, insist: bool = False) -> None:
        """Load a version; if the server dies meanwhile, load it again once it has started again.

        Args:
            lora: The version.
            insist: Whether to ask again where vLLM refuses it, as it may for a moment.

        Raises:
            EngineError: vLLM does not load it, dies whenever it is asked to, or was given up.
        """
        for remaining in reversed(range(_TRIES)):
            await self.server.ready()
            generation = self.server.generation
            try:
                return await self._load(lora)
            except EngineError:
                if not insist or not remaining:
                    raise
            except (aiohttp.ClientError, TimeoutError) as error:
                if not await self.server.has_died(generation) and not (insist and remaining):
                    raise EngineError(f"vLLM did not load adapter version {lora.version}: {error}") from error
        raise EngineError(f"vLLM died {_TRIES} times while it loaded adapter version {lora.version}")

    async def catch_up(self) -> None:
        """Load what new calls get, whatever that is by then; calls are sent here from then on."""
        while not self.serves(lora := self._current()):
            await self.load(lora)
            self.drop_if_idle(lora)  # it may have been replaced meanwhile

    async def _load_again(self) -> None:
        """Load the current version into a server that has just started and holds nothing."""
        held = tuple(self._held.values())
        self._held.clear()
        for lora in held:
            await self._forget(lora, but_not=self._current())
        while not self.serves(lora := self._current()):
            await self._load(lora)
            self.drop_if_idle(lora)

    async def _load(self, lora: LoraVersion) -> None:
        assert lora.path is not None
        body = {"lora_name": lora.name, "lora_path": await self.server.files.bring(lora.path, lora.name)}
        async with self._post("load", body) as reply:
            refusal = None if reply.status == 200 or await self._is_loaded(lora) else await reply.text()
        if refusal is not None:
            await self._forget(lora)
            raise EngineError(f"vLLM refused adapter version {lora.version} ({str(lora.path)!r}): {refusal}")
        self._held[lora.name] = lora

    async def _forget(self, lora: LoraVersion, but_not: LoraVersion | None = None) -> None:
        """Remove the copy of a version's files that was made for this server."""
        if lora.path is not None and lora is not but_not:
            await self.server.files.drop(lora.name)

    async def _is_loaded(self, lora: LoraVersion) -> bool:
        """Whether vLLM has the version: an earlier attempt may have succeeded although its answer was lost."""
        async with self._http.get(f"{self.server.url}/v1/models", headers=self.server.headers) as reply:
            return any(card["id"] == lora.name for card in (await reply.json())["data"])

    async def _unload(self, lora: LoraVersion) -> None:
        with suppress(aiohttp.ClientError, TimeoutError, EngineError):
            await self.server.ready()  # while it sleeps, the memory of its slots is not there
            async with self._post("unload", {"lora_name": lora.name}) as reply:
                await reply.read()
        await self._forget(lora)

    def _post(self, action: str, body: dict[str, str]) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        url = f"{self.server.url}/v1/{action}_lora_adapter"
        return self._http.post(url, json=body, headers=self.server.headers)
