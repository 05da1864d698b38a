"""Whose turn it is on a GPU that vLLM and the trainer use by turns (`gpu_sharing="sleep"`): vLLM sleeps during a step.

Asleep, vLLM has its weights in main memory and no KV cache. Calls that it was answering are kept: they are computed
again up to where they were, and go on. New ones wait in the gateway, and none fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import aiohttp

from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.processes import kill_group
from woodshed.errors import EngineError

_log = logging.getLogger("woodshed.engine")

_WITHIN = aiohttp.ClientTimeout(total=300)
"""How long vLLM may take to fall asleep or to wake up: its weights are copied, and the step at work is finished."""


class GpuTurns:
    """Gives the GPU to the trainers and back to the vLLM servers; where no server sleeps, nobody ever waits."""

    def __init__(self, servers: Iterable[ModelServer], http: aiohttp.ClientSession) -> None:
        """Take turns between the trainers and those of `servers` whose `gpu_sharing` is `sleep`."""
        self._servers = [server for server in servers if server.model.gpu_sharing == "sleep"]
        self._http = http
        self._lock = asyncio.Lock()
        """Held during a turn of a trainer, and while vLLM does something that must not be interrupted by one."""

    @asynccontextmanager
    async def trainers(self) -> AsyncIterator[None]:
        """Put vLLM to sleep until the block ends, whatever happens in it.

        Raises:
            EngineError: A server does not fall asleep; all are awake again.
        """
        if not self._servers:
            yield
            return
        async with self._lock:
            began = time.monotonic()
            try:
                await self._each(self._put_to_sleep)
                asleep = time.monotonic()
                yield
            finally:
                trained = time.monotonic()
                await asyncio.shield(asyncio.ensure_future(self._each(self._wake)))
            _log.info(
                "vLLM slept %.1f s for a trainer's turn; falling asleep took %.1f s, waking up %.1f s",
                trained - asleep, asleep - began, time.monotonic() - trained,
            )  # fmt: skip

    @asynccontextmanager
    async def vllm(self) -> AsyncIterator[None]:
        """Keep the trainers from taking their turn until the block ends."""
        async with self._lock if self._servers else contextlib.nullcontext():
            yield

    async def _each(self, do: Callable[[ModelServer], Awaitable[None]]) -> None:
        results = await asyncio.gather(*(do(server) for server in self._servers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _put_to_sleep(self, server: ModelServer) -> None:
        with contextlib.suppress(EngineError):  # one that was given up holds no memory
            await server.ready()
        server.mark_asleep()
        # From now on, a server that dies starts again only when it is its turn.
        with contextlib.suppress(aiohttp.ClientConnectionError):
            await self._post(server, "sleep?level=1&mode=keep")

    async def _wake(self, server: ModelServer) -> None:
        try:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                await self._post(server, "wake_up")
        except (EngineError, aiohttp.ClientError, TimeoutError) as error:
            # Alive, asleep and deaf: no call would ever be answered. It is started again instead.
            _log.warning("vLLM for %r did not wake up (%s) and is started again", server.model.name, error)
            if server.pid is not None:
                kill_group(server.pid)
        finally:
            server.mark_awake()

    async def _post(self, server: ModelServer, what: str) -> None:
        url = f"{server.url}/{what}"
        async with self._http.post(url, headers=server.headers, timeout=_WITHIN) as reply:
            if reply.status != 200:
                text = (await reply.text())[:500]
                raise EngineError(f"vLLM for {server.model.name!r} answered /{what} with {reply.status}: {text}")
