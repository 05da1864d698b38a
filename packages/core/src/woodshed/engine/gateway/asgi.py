"""The small part of ASGI that the gateway uses directly, without a framework's overhead on each call.

ASGI: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = dict[str, str]


async def read_body(receive: Receive) -> bytes | None:
    """Return the whole request body, or None if the client disconnected before its end."""
    parts = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            return b"".join(parts)


async def until_disconnect(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


def header(scope: Scope, name: bytes) -> str | None:
    """Return a request header (`name` in lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


class Reply:
    """The response to one HTTP request: sent at once, or as a stream."""

    def __init__(self, send: Send) -> None:
        """Nothing is sent yet."""
        self._send = send
        self.has_begun = False

    async def send_json(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """Send a JSON body and end the response."""
        complete = {"content-type": "application/json", "content-length": str(len(body))} | (headers or {})
        await self._begin(status, complete)
        await self._send({"type": "http.response.body", "body": body})

    async def send_error(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Send an error in OpenAI's shape and end the response."""
        await self.send_json(status, error_body(message, kind=kind, param=param, code=code), headers)

    async def send_event(self, data: bytes, headers: Headers, *, last: bool = False) -> None:
        """Send a part of an event stream; the first part is preceded by the response's head."""
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
