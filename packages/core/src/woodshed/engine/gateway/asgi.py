"""The few lines of ASGI that the gateway speaks directly, to spend nothing on a call that it can save."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = dict[str, str]


async def read_body(receive: Receive) -> bytes | None:
    """Return the whole request body, or None where the client has gone before its end."""
    parts = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            return b"".join(parts)


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def header(scope: Scope, name: bytes) -> str | None:
    """Return a request header (`name` in lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


class Reply:
    """One answer on its way to a client: whole, or begun and continued."""

    def __init__(self, send: Send) -> None:
        """Nothing is sent yet."""
        self._send = send
        self.has_begun = False

    async def whole(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """Send a JSON answer and end."""
        sized = {"content-type": "application/json", "content-length": str(len(body))} | (headers or {})
        await self._begin(status, sized)
        await self._send({"type": "http.response.body", "body": body})

    async def error(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Send an error in OpenAI's shape and end."""
        await self.whole(status, error_body(message, kind=kind, param=param, code=code), headers)

    async def stream(self, data: bytes, headers: Headers, *, last: bool = False) -> None:
        """Send a part of an event stream, after its head where it is the first."""
        if not self.has_begun:
            await self._begin(
                200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"} | headers
            )
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _begin(self, status: int, headers: Headers) -> None:
        self.has_begun = True
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """Return OpenAI's error object as JSON."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})
