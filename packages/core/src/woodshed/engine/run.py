"""The engine's life: listen on the port, start vLLM, serve until told to stop or the parent dies, stop everything."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from woodshed.engine.client.config import LOOPBACK, EngineConfig, ServedModel, check_config
from woodshed.engine.client.gpus import gpu_ids
from woodshed.engine.control.api import ControlApi
from woodshed.engine.gateway.asgi import Receive, Scope, Send
from woodshed.engine.gateway.connections import Connection, raise_open_files
from woodshed.engine.gateway.counters import Counters, restarts_of
from woodshed.engine.gateway.gateway import Gateway
from woodshed.engine.gateway.guard import Guard
from woodshed.engine.gateway.sessions import Session, Sessions
from woodshed.engine.gateway.store import Store
from woodshed.engine.gateway.upstream import Upstream
from woodshed.engine.vllm.gguf import converted
from woodshed.engine.vllm.lora_slots import LoraSlots
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.room import check_room
from woodshed.engine.vllm.supervisor import MakeProcesses, Supervisor
from woodshed.engine.vllm.tool_parsers import resolved
from woodshed.errors import EngineError

Report = Callable[[str, str], None]
"""Called with a kind (`progress` or `ready`) and a message."""

_log = logging.getLogger("woodshed.engine")
_PARENT_EVERY_S = 0.5
_GRACE_S = 2
_KEEP_ALIVE_S = 600
_CHAT = "/v1/chat/completions"


async def run_engine(
    config: EngineConfig, report: Report, supervisor_type: Callable[..., Supervisor] = Supervisor
) -> None:
    """Serve until a signal, a shutdown request or the parent's death.

    Args:
        config: What is served, and where.
        report: Called with progress, and with the engine's address once it is ready.
        supervisor_type: What starts the model servers and keeps them up.

    Raises:
        EngineError: The port is taken, a model cannot be served, or a Ray cluster cannot be joined or has no room.
        ConfigError: The config contradicts itself or names a folder without a model.
    """
    config = check_config(config)
    config.home.mkdir(parents=True, exist_ok=True)
    raise_open_files()
    # The port first: a taken port shows in a millisecond, a failing vLLM only after half a minute.
    with closing(_listen(config)) as listener, _on_cluster(config, report) as (config, processes):
        if processes is not None:
            supervisor_type = partial(supervisor_type, processes=processes)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        watching = asyncio.create_task(_watch_parent(config.parent_pid, stop))
        try:
            preparing = asyncio.create_task(_prepared(config, lambda message: report("progress", message)))
            if not await _ends_before(stop, preparing):
                return
            config = config.model_copy(update={"models": preparing.result()})
            await _serve(config, listener, stop, report, supervisor_type)
        finally:
            watching.cancel()


@contextmanager
def _on_cluster(config: EngineConfig, report: Report) -> Iterator[tuple[EngineConfig, MakeProcesses | None]]:
    """Join the Ray cluster that the config names, if any; yield the config with its real address, and its nodes."""
    if config.ray is None:
        yield config, None
        return
    # Ray is an extra of the engine's environment, and takes a second to import.
    from woodshed.engine.cluster.join import joined

    report("progress", f"joining the Ray cluster {config.ray!r}")
    servers = sum(model.replicas for model in config.models)
    with joined(config.ray, processes=servers + config.trainers.count) as cluster:
        from woodshed.engine.cluster.node_processes import NodeProcesses

        trainers = config.trainers.model_copy(update={"ray": cluster.address})
        joined_config = config.model_copy(update={"ray": cluster.address, "trainers": trainers})
        say = partial(report, "progress")
        yield joined_config, partial(NodeProcesses, cluster=cluster, progress=say)


async def _prepared(config: EngineConfig, progress: Callable[[str], None]) -> tuple[ServedModel, ...]:
    models = await resolved(await converted(config.models, progress), progress)
    if config.ray is None and not gpu_ids():
        check_room(models)
    return models


async def _serve(
    config: EngineConfig,
    listener: socket.socket,
    stop: asyncio.Event,
    report: Report,
    supervisor_type: Callable[..., Supervisor],
) -> None:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as http:
        supervisor = supervisor_type(config.models, config.home, http, lambda message: report("progress", message))
        store = Store(config.home / "engine.sqlite")
        try:
            sessions, counters = Sessions(store), Counters(store)
            upstreams = _upstreams(supervisor, http, counters, lambda message: report("progress", message))
            sessions.on_seal = lambda session: _leave(upstreams, session)
            gateway = Gateway(upstreams, sessions, config.api_key)
            control = ControlApi(
                upstreams, sessions, counters, gateway, config.home, stop.set, supervisor.restart, config.trainers
            )
            starting = asyncio.create_task(supervisor.start())
            if not await _ends_before(stop, starting):
                return
            starting.result()
            try:
                await _run_server(Guard(_app(gateway, control), hosts=_hosts(config)), listener, stop, report)
            finally:
                await control.close()
        finally:
            await supervisor.stop()
            store.close()


def _upstreams(
    supervisor: Supervisor, http: aiohttp.ClientSession, counters: Counters, say: Callable[[str], None]
) -> dict[str, Upstream]:
    """Return model → its servers as the gateway calls them."""

    def warn(message: str) -> None:
        _log.warning("%s", message)
        say(message)

    of_model: dict[str, list[ModelServer]] = {}
    for server in supervisor.servers.values():
        server.on_restart = partial(counters.add, restarts_of(server.model.name))
        of_model.setdefault(server.model.name, []).append(server)
    return {
        name: Upstream(servers, LoraSlots(servers, http, warn) if servers[0].model.trainable else None, http, counters)
        for name, servers in of_model.items()
    }


def _leave(upstreams: dict[str, Upstream], session: Session) -> None:
    if (upstream := upstreams.get(session.policy)) is not None:  # it may be of an engine that served other models
        upstream.leave(session.rollout_id)


async def _ends_before(stop: asyncio.Event, work: asyncio.Task[Any]) -> bool:
    """Wait for `work`; return False, with it cancelled, where the engine is told to stop before it has ended."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if work.done():
        return True
    work.cancel()
    await asyncio.wait((work,))
    return False


async def _run_server(app: Guard, listener: socket.socket, stop: asyncio.Event, report: Report) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            loop="none",
            http=Connection,
            proxy_headers=False,  # whoever sits on loopback may write them
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    host, port = listener.getsockname()[:2]
    report("ready", f"http://{f'[{host}]' if ':' in host else host}:{port}")
    await stop.wait()
    server.should_exit = True
    await serving


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers; `run_engine` handles the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handler."""
        yield


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A plain ASGI function as an object, because Starlette calls a function with a `Request`."""

    serve: Callable[[Scope, Receive, Send], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.serve(scope, receive, send)


def _hosts(config: EngineConfig) -> tuple[str, ...] | None:
    """Return the names that the engine answers to beside loopback's; None, any, where other machines may reach it."""
    return tuple(config.allowed_hosts) if config.host in LOOPBACK else None


def _app(gateway: Gateway, control: ControlApi) -> ASGIApp:
    """Return both doors; a chat completion goes straight to the gateway, since most requests are one."""
    others = Starlette(
        routes=[
            Route(_CHAT, _Endpoint(gateway.chat), methods=["POST"]),
            Route("/v1/models", _Endpoint(gateway.models), methods=["GET"]),
            *control.routes(),
            Route("/{path:path}", _not_served, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
        ]
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_chat = scope.get("path") == _CHAT and scope.get("method") == "POST"
        await (gateway.chat(scope, receive, send) if is_chat else others(scope, receive, send))

    return app


async def _not_served(request: Request) -> Response:
    message = (
        f"{request.method} {request.url.path} is not served; this engine serves /v1/chat/completions and /v1/models"
    )
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status_code=404)


def _listen(config: EngineConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            reason = f"port {config.port} on {config.host} is taken; choose another, or 0 for any free one"
        else:
            reason = f"cannot listen on {config.host}:{config.port}: {error.strerror}"
        raise EngineError(reason) from error
    listener.setblocking(False)
    return listener


async def _watch_parent(parent: int | None, stop: asyncio.Event) -> None:
    """Stop when the parent is gone; polled, because the kernel's parent-death signal follows a thread."""
    while parent is not None:
        if os.getppid() != parent:
            stop.set()
            return
        await asyncio.sleep(_PARENT_EVERY_S)
