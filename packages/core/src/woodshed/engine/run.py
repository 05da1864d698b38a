"""The engine from its first second to its last: port, vLLM, doors open, watch the parent, everything down again."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from woodshed.engine.client.config import EngineConfig, check_config
from woodshed.engine.control.api import Control
from woodshed.engine.gateway.asgi import Receive, Scope, Send
from woodshed.engine.gateway.gateway import Gateway
from woodshed.engine.gateway.sessions import Sessions
from woodshed.engine.gateway.store import Store
from woodshed.engine.gateway.upstream_call import Upstream
from woodshed.engine.vllm.lora_slots import AdapterSlots
from woodshed.engine.vllm.supervisor import Supervisor
from woodshed.errors import EngineError

Tell = Callable[[str, str], None]

_PARENT_EVERY_S = 0.5
_GRACE_S = 2
_KEEP_ALIVE_S = 600


async def run_engine(config: EngineConfig, tell: Tell, supervise: type[Supervisor] = Supervisor) -> None:
    """Serve until a signal, a shutdown call, or the parent's death; `supervise` keeps the model servers up.

    Raises:
        EngineError: The port is taken, or a model cannot be served.
        ConfigError: The config cannot work.
    """
    config = check_config(config)
    config.home.mkdir(parents=True, exist_ok=True)
    # The port first: whether it is free is known in a millisecond, whether vLLM starts in half a minute.
    door = _listen(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    watching = asyncio.create_task(_watch_parent(config.parent_pid, stop))
    try:
        await _serve(config, door, stop, tell, supervise)
    finally:
        watching.cancel()
        door.close()


async def _serve(
    config: EngineConfig, door: socket.socket, stop: asyncio.Event, tell: Tell, supervise: type[Supervisor]
) -> None:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as http:
        supervisor = supervise(config.models, config.home, http, lambda message: tell("progress", message))
        store = Store(config.home / "engine.sqlite")
        try:
            upstreams = {
                name: Upstream(
                    server=server, slots=AdapterSlots(server, http) if server.model.trainable else None, http=http
                )
                for name, server in supervisor.servers.items()
            }
            sessions = Sessions(store)
            gateway = Gateway(upstreams, sessions, config.api_key)
            control = Control(upstreams, sessions, gateway, config.home, stop.set)
            starting = asyncio.create_task(supervisor.start())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not starting.done():
                starting.cancel()
                return
            starting.result()
            try:
                await _open_doors(_app(gateway, control), door, stop, tell)
            finally:
                await control.close()
        finally:
            await supervisor.stop()
            store.close()


async def _open_doors(app: Starlette, door: socket.socket, stop: asyncio.Event, tell: Tell) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[door]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    host, port = door.getsockname()[:2]
    tell("ready", f"http://{f'[{host}]' if ':' in host else host}:{port}")
    await stop.wait()
    server.should_exit = True
    await serving


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals are `run_engine`'s."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A plain ASGI function as Starlette takes it: an object, so that it is not handed a `Request`."""

    serve: Callable[[Scope, Receive, Send], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.serve(scope, receive, send)


def _app(gateway: Gateway, control: Control) -> Starlette:
    return Starlette(
        routes=[
            Route("/v1/chat/completions", _Endpoint(gateway.chat), methods=["POST"]),
            Route("/v1/models", _Endpoint(gateway.models), methods=["GET"]),
            *control.routes(),
            Route("/{path:path}", _not_served, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
        ]
    )


async def _not_served(request: Request) -> Response:
    message = (
        f"{request.method} {request.url.path} is not served; this engine serves /v1/chat/completions and /v1/models"
    )
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status_code=404)


def _listen(config: EngineConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((config.host, config.port))
        door.listen(2048)
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRINUSE:
            what = f"port {config.port} on {config.host} is taken; choose another, or 0 for any free one"
        else:
            what = f"cannot listen on {config.host}:{config.port}: {error.strerror}"
        raise EngineError(what) from error
    door.setblocking(False)
    return door


async def _watch_parent(parent: int | None, stop: asyncio.Event) -> None:
    """Stop when the parent is gone: polled, because the kernel's own signal watches a thread and not a process."""
    while parent is not None:
        if os.getppid() != parent:
            stop.set()
            return
        await asyncio.sleep(_PARENT_EVERY_S)
