"""What a client makes of an engine's answers, good and bad, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from woodshed.engine import Engine, EngineClient
from woodshed.errors import EngineError, EngineUnreachable, TrainError
from woodshed.types import PROTOCOL, OpenSession, SealedSession, StepRequest

HEALTH = {"woodshed": "0.1.0", "protocol": PROTOCOL}


@asynccontextmanager
async def answering(status: int, body: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Listen on loopback and give every request the same answer; yields the address and the requests' heads."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


def failure(kind: str, message: str) -> bytes:
    return json.dumps({"error": {"type": kind, "message": message}}).encode()


async def test_the_key_is_sent_and_ids_are_quoted() -> None:
    sealed = SealedSession(rollout_id="a/b c", calls=())
    async with answering(200, sealed.model_dump_json().encode()) as (url, heads), EngineClient(url, "secret") as client:
        assert await client.seal("a/b c") == sealed

    assert heads[0].startswith(b"POST /woodshed/v1/sessions/a%2Fb%20c/seal HTTP/1.1\r\n")
    assert b"authorization: Bearer secret\r\n" in heads[0]


async def test_nothing_there_is_unreachable_and_named() -> None:
    async with EngineClient("http://127.0.0.1:9") as client:
        with pytest.raises(
            EngineUnreachable, match=r"nothing answers at http://127\.0\.0\.1:9 .*'woodshed engine start'"
        ):
            await client.health()


async def test_an_engines_refusal_keeps_its_words() -> None:
    async with answering(409, failure("EngineError", "rollout 'r' is sealed")) as (url, _), EngineClient(url) as client:
        with pytest.raises(EngineError, match=r"(?m)^rollout 'r' is sealed$"):
            await client.open_session(OpenSession(rollout_id="r", policy="p"))


async def test_a_step_that_failed_is_a_train_error() -> None:
    async with answering(409, failure("TrainError", "loss is nan")) as (url, _), EngineClient(url) as client:
        with pytest.raises(TrainError, match="loss is nan"):
            await client.step("policy", StepRequest(step_id="1", rollouts=()))


async def test_another_protocol_is_refused_with_both_numbers() -> None:
    body = json.dumps(HEALTH | {"protocol": 99, "new_field": 1}).encode()
    async with answering(200, body) as (url, _), EngineClient(url) as client:
        with pytest.raises(EngineError, match=f"speaks protocol 99, this client {PROTOCOL}"):
            await client.health()


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (404, b"not found"), (200, b"[]"), (500, b"{}")])
async def test_something_that_is_no_engine_is_said_to_be_none(status: int, body: bytes) -> None:
    async with answering(status, body) as (url, _), EngineClient(url) as client:
        with pytest.raises(EngineError, match=rf"with status {status} and no answer of an woodshed engine"):
            await client.health()


async def test_an_openai_url_is_taken_for_the_engines() -> None:
    async with answering(200, json.dumps(HEALTH).encode()) as (url, _), Engine.connect(f"{url}/v1").running() as client:
        assert client.openai_base_url == f"{url}/v1"
