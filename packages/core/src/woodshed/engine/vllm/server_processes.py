"""The processes of vLLM servers on one machine: a fork server starts and ends them, and is started again if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from woodshed.engine.client.subprocesses import ended
from woodshed.engine.vllm import command
from woodshed.engine.vllm.first_calls import tail
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.processes import free_port, kill_group
from woodshed.errors import EngineError

ReportProgress = Callable[[str], None]
Exited = Callable[[ModelServer, str], None]
"""Told of a server whose process has ended, and why; `pid` is None then."""

_STOP_WITHIN_S = 4.0


class ServerProcesses(Protocol):
    """Where the processes of an engine's servers run: on this machine, or on a cluster's nodes."""

    async def start(self, server: ModelServer) -> int:
        """Start the process of a server, set `url`, `key` and `pid` of it, and return its process id there.

        Raises:
            EngineError: It cannot be started; the message says why.
        """

    def stop(self, server: ModelServer, *, hard: bool) -> None:
        """Ask the process of a server to end, or kill it; its end is told as any other."""

    def alone(self, server: ModelServer) -> AbstractAsyncContextManager[Any]:
        """Return what is held while a server starts, where it must be the only one that does."""

    async def close(self) -> None:
        """End all processes: ask them first, then kill them."""


class LocalProcesses:
    """The processes of servers on this machine, all forked from one that has imported vLLM."""

    def __init__(
        self,
        servers: Sequence[ModelServer],
        exited: Exited,
        *,
        logs: Path,
        progress: ReportProgress,
        gpu: bool,
        devices: Mapping[str, dict[str, str]],
        sharing: int,
        host: str = "127.0.0.1",
    ) -> None:
        """Prepare; nothing runs before the first start.

        Args:
            servers: All that may be started.
            exited: Told of each server whose process has ended.
            logs: Folder of the fork server's log.
            progress: Told that vLLM is imported.
            gpu: Whether there is a GPU.
            devices: Server → the environment variable that shows it its own GPUs; those that are not named see all.
            sharing: How many servers share the cores, where there is no GPU.
            host: Address that the servers listen on.
        """
        self._servers = {server.name: server for server in servers}
        self._log = logs / "vllm.log"
        self._exited = exited
        self._progress = progress
        self._gpu = gpu
        self._devices = devices
        self._sharing = sharing
        self._host = host
        self._starting_on: dict[str, asyncio.Lock] = {}
        self._fork_server: asyncio.subprocess.Process | None = None
        self._opening = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None
        self._starting: dict[str, asyncio.Future[int]] = {}
        self._closing = False

    async def start(self, server: ModelServer) -> int:
        """Start the process of a server, and the fork server where there is none."""
        async with self._opening:
            if self._fork_server is None:
                await self._open()
        port, server.key = free_port(self._host), secrets.token_urlsafe(32)
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._starting[server.name] = started
        self._command(
            start=server.name,
            argv=command.command_line(server.model, port, gpu=self._gpu, host=self._host),
            env=command.server_environment(server.model, server.key) | self._devices.get(server.name, {}),
            log=str(server.log),
        )
        pid = await started
        host = f"[{self._host}]" if ":" in self._host else self._host
        server.url = f"http://{host}:{port}"
        return pid

    def stop(self, server: ModelServer, *, hard: bool) -> None:
        """Ask the process of a server to end, or kill it."""
        self._command(stop=server.name, hard=hard)

    def alone(self, server: ModelServer) -> AbstractAsyncContextManager[Any]:
        """Return what lets one server at a time start on a GPU.

        vLLM measures the memory of its card as it starts. It would count as its own what another takes meanwhile, and
        refuses to start where another gives some back.
        """
        if not self._gpu:
            return contextlib.nullcontext()
        return self._starting_on.setdefault(str(self._devices.get(server.name)), asyncio.Lock())

    async def close(self) -> None:
        """Stop all servers: ask them first, then kill them, and the fork server with them."""
        self._closing = True
        fork_server = self._fork_server
        if fork_server is None:
            return
        if fork_server.returncode is not None:
            await ended(fork_server)
            return
        alive = [server for server in self._servers.values() if server.pid is not None]
        for server in alive:
            self.stop(server, hard=False)
        deadline = time.monotonic() + _STOP_WITHIN_S
        while any(server.pid is not None for server in alive) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert fork_server.stdin is not None
        fork_server.stdin.close()
        try:
            await asyncio.wait_for(ended(fork_server), _STOP_WITHIN_S)
        except TimeoutError:
            fork_server.kill()
        for server in alive:
            if server.pid is not None:
                kill_group(server.pid)
        await ended(fork_server)

    async def _open(self) -> None:
        self._progress("importing vLLM")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | command.fork_server_environment(self._sharing, gpu=self._gpu)
        with self._log.open("ab") as sink:
            fork_server = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "woodshed.engine.vllm.fork_server", str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                env=environment,
                start_new_session=True,
            )
        self._fork_server = fork_server
        if await self._next_event(fork_server) is None:
            self._fork_server = None
            raise EngineError(f"vLLM cannot be imported; last lines of {str(self._log)!r}:\n{tail(self._log)}")
        self._listening = asyncio.create_task(self._listen(fork_server))

    async def _listen(self, fork_server: asyncio.subprocess.Process) -> None:
        """Follow the fork server's events; if it dies, so have all its servers."""
        while (event := await self._next_event(fork_server)) is not None:
            if "started" in event:
                self._servers[event["started"]].pid = event["pid"]
                self._starting.pop(event["started"]).set_result(event["pid"])
            elif "exited" in event:
                self._tell(self._servers[event["exited"]], f"exit status {event['status']}")
        if self._closing:
            return
        self._fork_server = None
        for future in self._starting.values():
            future.set_exception(EngineError("its parent died before it was forked"))
        self._starting.clear()
        for server in self._servers.values():
            if server.pid is not None:
                kill_group(server.pid)
                self._tell(server, "its parent died")

    def _tell(self, server: ModelServer, reason: str) -> None:
        server.pid = None
        self._exited(server, reason)

    async def _next_event(self, fork_server: asyncio.subprocess.Process) -> dict[str, Any] | None:
        assert fork_server.stdout is not None
        line = await fork_server.stdout.readline()
        return json.loads(line) if line else None

    def _command(self, **fields: Any) -> None:
        if self._fork_server is not None and self._fork_server.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._fork_server.stdin.write(json.dumps(fields).encode() + b"\n")
