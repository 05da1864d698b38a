"""Keeps vLLM servers up: starts them together, watches them, restarts them after a death, stops them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from woodshed.engine.client.config import ServedModel
from woodshed.engine.client.gpus import gpu_ids
from woodshed.engine.client.private_files import write_private
from woodshed.engine.vllm import command
from woodshed.engine.vllm.first_calls import tail, until_answering, warm_up
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.patch_check import check_patches
from woodshed.engine.vllm.server_processes import Exited, LocalProcesses, ServerProcesses
from woodshed.errors import EngineError

ReportProgress = Callable[[str], None]
MakeProcesses = Callable[[Sequence[ModelServer], Exited], ServerProcesses]

_WATCH_EVERY_S = 5.0
_HUNG_AFTER_S = 60.0


class Supervisor:
    """Starts, watches and restarts the vLLM servers of one engine."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        home: Path,
        http: aiohttp.ClientSession,
        progress: ReportProgress,
        *,
        processes: MakeProcesses | None = None,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            models: What is served.
            home: The engine's folder.
            http: What the servers are asked with.
            progress: Told each phase, and each death.
            processes: Makes what starts the servers' processes; they run on this machine otherwise.
        """
        self.logs = home / "logs"
        self._servers_file = home / "servers.json"
        self.servers = {
            server.name: server
            for model in models
            for server in (ModelServer(model, self.logs, replica=n) for n in range(1, model.replicas + 1))
        }
        """Name of a server → the server; a model that is served once gives its own name to it."""
        self._http = http
        self._progress = progress
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        made = processes or self._on_this_machine(models)
        self._processes = made(list(self.servers.values()), self._mark_dead)

    def _on_this_machine(self, models: Sequence[ServedModel]) -> MakeProcesses:
        ids = gpu_ids()
        return partial(
            LocalProcesses,
            logs=self.logs,
            progress=self._progress,
            gpu=bool(ids),
            devices=command.visible_devices(models, ids),
            sharing=len(self.servers),
        )

    async def start(self) -> None:
        """Start all servers at once and return when each has answered a first call.

        Raises:
            EngineError: One cannot start; the message has the last lines of its log.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            async with asyncio.TaskGroup() as group:
                for server in self.servers.values():
                    group.create_task(self._launch(server))
        except* EngineError as errors:
            raise errors.exceptions[0] from None
        self._spawn(self._watch())

    async def stop(self) -> None:
        """Stop all servers: ask them first, then kill them."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await self._processes.close()

    async def restart(self, server: ModelServer) -> None:
        """Stop a server that no call uses and return once it has started again; at once if it is starting anyway.

        Raises:
            EngineError: It does not start any more.
        """
        generation = server.generation
        if server.is_ready:
            self._processes.stop(server, hard=False)
            while server.is_alive_since(generation):
                await asyncio.sleep(0.05)
        await server.ready()

    def _mark_dead(self, server: ModelServer, reason: str) -> None:
        # At once: calls and LoRA swaps wait for the next start instead of failing.
        server.mark_down()
        if not self._stopping and server.is_started:
            server.is_started = False
            self._spawn(self._restart(server, reason))

    async def _restart(self, server: ModelServer, reason: str) -> None:
        name = server.name
        while server.may_restart():
            server.on_restart()
            self._progress(f"vLLM for {name!r} died ({reason}); starting it again")
            await asyncio.sleep(server.backoff_s())
            try:
                await self._launch(server)
                return
            except (EngineError, aiohttp.ClientError, TimeoutError) as error:
                reason = str(error)
        server.give_up(
            EngineError(f"vLLM for {name!r} keeps dying and was given up ({reason}); its log ends:\n{tail(server.log)}")
        )

    async def _launch(self, server: ModelServer) -> None:
        """Start one server, send it first calls and let others through."""
        name = server.name
        async with self._processes.alone(server):
            began = time.monotonic()
            await self._start(server)
        if server.prepare is not None:
            await server.prepare()
        try:
            await check_patches(server, self._http, self._progress)
        except EngineError:
            self._processes.stop(server, hard=True)
            raise
        await warm_up(server, self._http)
        server.generation += 1
        server.is_started = True
        server.mark_up()
        self._write_servers_file()
        self._progress(f"{name!r} is ready after {time.monotonic() - began:.0f} s")

    async def _start(self, server: ModelServer) -> None:
        """Start one server and wait until it answers."""
        await server.awake()
        self._progress(f"starting vLLM for {server.name!r}: loading {server.model.path}")
        pid = await self._processes.start(server)
        await until_answering(server, pid, self._http)

    async def _watch(self) -> None:
        """Kill a server that is alive but no longer answers; it is then restarted."""
        last_healthy_s = {name: time.monotonic() for name in self.servers}
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            # All at once: one that hangs must not keep the others from being asked.
            healthy = await asyncio.gather(*(self._is_healthy(server) for server in self.servers.values()))
            for name, is_healthy in zip(self.servers, healthy, strict=True):
                if is_healthy:
                    last_healthy_s[name] = time.monotonic()
                elif time.monotonic() - last_healthy_s[name] > _HUNG_AFTER_S:
                    self._processes.stop(self.servers[name], hard=True)

    async def _is_healthy(self, server: ModelServer) -> bool:
        """Whether a server answers; one that is starting needs not yet."""
        if server.pid is None or not server.is_ready:
            return True
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=_HUNG_AFTER_S / 2)
            async with self._http.get(f"{server.url}/health", headers=server.headers, timeout=timeout) as reply:
                return reply.status == 200
        return False

    def _write_servers_file(self) -> None:
        """Write the servers' addresses and keys, for the user's own tools that call vLLM directly."""
        servers = {
            name: {"url": server.url, "key": server.key, "pid": server.pid}
            | ({} if server.node is None else {"node": server.node})
            for name, server in self.servers.items()
        }
        write_private(self._servers_file, json.dumps(servers, indent=2))

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
