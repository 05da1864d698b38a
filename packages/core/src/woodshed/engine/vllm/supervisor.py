"""Keeps vLLM servers up: starts them together, watches them, restarts them after a death, stops them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
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
from woodshed.engine.vllm.processes import free_port, kill_group
from woodshed.errors import EngineError

ReportProgress = Callable[[str], None]

_STOP_WITHIN_S = 4.0
_WATCH_EVERY_S = 5.0
_HUNG_AFTER_S = 60.0


class Supervisor:
    """Starts, watches and restarts the vLLM servers of one engine."""

    def __init__(
        self, models: Sequence[ServedModel], home: Path, http: aiohttp.ClientSession, progress: ReportProgress
    ) -> None:
        """Prepare; nothing runs before `start`."""
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
        ids = gpu_ids()
        self._gpu = bool(ids)
        self._devices = command.visible_devices(models, ids)
        self._starting_on: dict[str, asyncio.Lock] = {}
        self._fork_server: asyncio.subprocess.Process | None = None
        self._starting: dict[str, asyncio.Future[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self) -> None:
        """Start all servers at once and return when each has answered a first call.

        Raises:
            EngineError: One cannot start; the message has the last lines of its log.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        await self._start_fork_server()
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
        fork_server = self._fork_server
        if fork_server is None or fork_server.returncode is not None:
            return
        alive = [server for server in self.servers.values() if server.pid is not None]
        for server in alive:
            self._command(stop=server.name, hard=False)
        deadline = time.monotonic() + _STOP_WITHIN_S
        while any(server.pid is not None for server in alive) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert fork_server.stdin is not None
        fork_server.stdin.close()
        try:
            await asyncio.wait_for(fork_server.wait(), _STOP_WITHIN_S)
        except TimeoutError:
            fork_server.kill()
        for server in alive:
            if server.pid is not None:
                kill_group(server.pid)

    async def restart(self, server: ModelServer) -> None:
        """Stop a server that no call uses and return once it has started again; at once if it is starting anyway.

        Raises:
            EngineError: It does not start any more.
        """
        generation = server.generation
        if server.is_ready:
            self._command(stop=server.name, hard=False)
            while server.is_alive_since(generation):
                await asyncio.sleep(0.05)
        await server.ready()

    async def _start_fork_server(self) -> None:
        self._progress("importing vLLM")
        log = self.logs / "vllm.log"
        environment = os.environ | command.fork_server_environment(len(self.servers), gpu=self._gpu)
        with log.open("ab") as sink:
            self._fork_server = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "woodshed.engine.vllm.fork_server", str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                env=environment,
                start_new_session=True,
            )
        first = await self._next_event(self._fork_server)
        if first is None:
            raise EngineError(f"vLLM cannot be imported; last lines of {str(log)!r}:\n{tail(log)}")
        self._spawn(self._listen(self._fork_server))

    async def _listen(self, fork_server: asyncio.subprocess.Process) -> None:
        """Follow the fork server's events; if it dies, start another one and all its servers again."""
        while (event := await self._next_event(fork_server)) is not None:
            if "started" in event:
                self.servers[event["started"]].pid = event["pid"]
                self._starting.pop(event["started"]).set_result(event["pid"])
            elif "exited" in event:
                self._mark_dead(self.servers[event["exited"]], f"exit status {event['status']}")
        if self._stopping:
            return
        for future in self._starting.values():
            future.cancel()
        self._starting.clear()
        orphans = [server for server in self.servers.values() if server.pid is not None]
        for server in orphans:
            assert server.pid is not None
            kill_group(server.pid)
            # Now, not after the import below: calls and LoRA swaps wait for the next start instead of failing.
            server.mark_down()
        try:
            await self._start_fork_server()
        except EngineError as error:
            for server in self.servers.values():
                server.give_up(error)
            return
        for server in orphans:
            self._mark_dead(server, "its parent died")

    async def _next_event(self, fork_server: asyncio.subprocess.Process) -> dict[str, Any] | None:
        assert fork_server.stdout is not None
        line = await fork_server.stdout.readline()
        return json.loads(line) if line else None

    def _command(self, **fields: Any) -> None:
        assert self._fork_server is not None and self._fork_server.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._fork_server.stdin.write(json.dumps(fields).encode() + b"\n")

    def _mark_dead(self, server: ModelServer, reason: str) -> None:
        server.pid = None
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
        async with self._alone_on_gpu(name):
            began = time.monotonic()
            await self._start(server)
        if server.prepare is not None:
            await server.prepare()
        try:
            await check_patches(server, self._http, self._progress)
        except EngineError:
            self._command(stop=name, hard=True)
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
        model, name = server.model, server.name
        port, server.key = free_port(), secrets.token_urlsafe(32)
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._starting[name] = started
        self._command(
            start=name,
            argv=command.command_line(model, port, gpu=self._gpu),
            env=command.server_environment(model, server.key) | self._devices.get(name, {}),
            log=str(server.log),
        )
        self._progress(f"starting vLLM for {name!r}: loading {model.path}")
        pid = await started
        server.url = f"http://127.0.0.1:{port}"
        await until_answering(server, pid, self._http)

    def _alone_on_gpu(self, name: str) -> contextlib.AbstractAsyncContextManager[Any]:
        """Return what lets one server at a time start on a GPU.

        vLLM measures the memory of its card as it starts. It would count as its own what another takes meanwhile, and
        refuses to start where another gives some back.
        """
        if not self._gpu:
            return contextlib.nullcontext()
        return self._starting_on.setdefault(str(self._devices.get(name)), asyncio.Lock())

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
                    self._command(stop=name, hard=True)

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
            name: {"url": server.url, "key": server.key, "pid": server.pid} for name, server in self.servers.items()
        }
        write_private(self._servers_file, json.dumps(servers, indent=2))

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
