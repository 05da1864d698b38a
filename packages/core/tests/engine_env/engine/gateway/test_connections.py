"""Connections that send no request starve nobody: they are few, and they are closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
import pytest_asyncio
import uvicorn

from woodshed.engine.gateway import connections
from woodshed.engine.gateway.asgi import Receive, Reply, Scope, Send, read_body
from woodshed.engine.gateway.guard import Guard
from woodshed.testing.waiting import eventually

HEAD = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n"

OPENED: list[asyncio.StreamWriter] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(receive)
    await Reply(send).send_json(404 if scope["path"] == "/gone" else 200, b"{}")


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    connections.raise_open_files()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        Guard(app, hosts=()), http=connections.Connection, ws="none", lifespan="off", log_level="error"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve([listener]))
    await eventually(lambda: server.started, "the server is started")
    yield listener.getsockname()[1]
    while OPENED:
        writer = OPENED.pop()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    server.should_exit = True
    await serving


async def half_open(port: int, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    OPENED.append(writer)
    writer.write(sent)
    return reader, writer


async def ask(port: int) -> bytes:
    reader, _ = await half_open(port, HEAD + b"\r\n{}")
    return await reader.readline()


def count(of: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> Callable[[], bool]:
    return lambda: sum(not reader.at_eof() and reader.exception() is None for reader, _ in of) <= 256


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["nothing", "half a head"])
async def test_nine_hundred_half_open_requests_starve_nobody(port: int, sent: bytes) -> None:
    opened = [await half_open(port, sent) for _ in range(900)]
    answers = await asyncio.wait_for(asyncio.gather(*(ask(port) for _ in range(20))), 30)

    assert set(answers) == {b"HTTP/1.1 200 OK\r\n"}
    await eventually(count(opened), "all but the newest are closed")


async def test_a_head_that_does_not_come_is_not_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_WITHIN_S", 0.2)
    first, _ = await half_open(port, HEAD)
    # A second request on a connection whose first was answered is held to the same.
    second, writer = await half_open(port, HEAD + b"\r\n{}")
    assert await second.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.write(HEAD)

    for reader in (first, second):
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 20)


async def test_an_answered_connection_is_kept_for_the_next_request(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_WITHIN_S", 0.1)
    reader, writer = await half_open(port, HEAD + b"\r\n{}")
    for _ in range(2):
        assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200 OK")
        await asyncio.sleep(0.3)  # longer than a head may take
        writer.write(HEAD + b"\r\n{}")


async def test_an_endless_head_is_refused(port: int) -> None:
    reader, _ = await half_open(port, HEAD + b"x: " + b"y" * 2 * connections.MAX_HEAD_BYTES)

    assert b" 431 " in await asyncio.wait_for(reader.readline(), 20)


async def test_who_is_turned_away_does_not_keep_the_connection(port: int) -> None:
    reader, _ = await half_open(port, HEAD.replace(b" / ", b" /gone ") + b"\r\n{}")
    foreign, _ = await half_open(port, HEAD.replace(b"localhost", b"evil.example") + b"\r\n{}")

    assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 404")
    assert (await asyncio.wait_for(foreign.read(), 20)).startswith(b"HTTP/1.1 403")
