"""What stands before both doors: pages of a browser, foreign names, endless and slow bodies are refused."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from woodshed.engine.gateway import guard as guard_module
from woodshed.engine.gateway.asgi import read_body
from woodshed.engine.gateway.guard import Guard


async def _plain(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


class _Direct:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raw = await read_body(receive)
        if raw is not None:
            await PlainTextResponse(str(len(raw)))(scope, receive, send)


APP = Starlette(routes=[Route("/control", _plain, methods=["POST"]), Route("/chat", _Direct(), methods=["POST"])])


async def ask(
    path: str,
    headers: dict[str, str],
    parts: list[bytes] | None = None,
    hosts: tuple[str, ...] | None = (),
    stuck: bool = False,
) -> tuple[int, bytes]:
    """Return status and body of a request made of `parts`; a stuck one never sends its end."""
    sent: list[MutableMapping[str, Any]] = []
    waiting = list(parts or [b"{}"])

    async def receive() -> MutableMapping[str, Any]:
        if waiting:
            part = waiting.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(waiting) or stuck}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": raw, "query_string": b"", "root_path": ""}
    await Guard(APP, hosts=hosts)(scope, receive, send)
    body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
    (status,) = [m["status"] for m in sent if m["type"] == "http.response.start"]
    return status, body


@pytest.mark.parametrize("path", ["/control", "/chat"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8900"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "[::1]:8900"}, 200),
        ({"host": "gpu-box"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": ""}, 403),
        ({"host": "127.0.0.1:8900", "origin": "https://evil.example"}, 403),
        ({"host": "127.0.0.1:8900", "origin": "null"}, 403),
        ({"host": "127.0.0.1:8900", "origin": "//["}, 403),
        ({"host": "127.0.0.1:8900", "origin": "http://127.0.0.1:3000"}, 403),
        ({"host": "127.0.0.1:8900", "origin": "http://127.0.0.1:8900"}, 200),
    ],
    ids=str,
)
async def test_only_its_own_names_and_pages_may_speak_to_it(path: str, headers: dict[str, str], status: int) -> None:
    assert (await ask(path, headers, hosts=("GPU-box",)))[0] == status


async def test_an_engine_that_answers_to_any_name_still_refuses_pages_of_others() -> None:
    assert (await ask("/chat", {"host": "any.example"}, hosts=None))[0] == 200
    assert (await ask("/chat", {"host": "any.example", "origin": "https://evil.example"}, hosts=None))[0] == 403


@pytest.mark.parametrize("path", ["/control", "/chat"])
async def test_an_endless_body_is_refused_once_it_is_too_large(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "MAX_BODY_BYTES", 100)
    own = {"host": "localhost"}

    assert await ask(path, own, [b"x" * 50, b"x" * 50]) == (200, b"100")
    assert (await ask(path, own, [b"x" * 50] * 3, stuck=True))[0] == 413
    assert (await ask(path, own | {"content-length": "101"}, [b""], stuck=True))[0] == 413


@pytest.mark.parametrize("path", ["/control", "/chat"])
async def test_a_body_that_does_not_come_is_not_waited_for_for_ever(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "BODY_WITHIN_S", 0.05)

    status, said = await ask(path, {"host": "localhost"}, [b"x"], stuck=True)

    assert (status, b"no more of the body came" in said) == (408, True)
