"""Who may read: a browser on this machine that knows the address's secret; and what a page of ours may load."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOSTS = {"127.0.0.1", "localhost", "[::1]"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # The address holds the secret.
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Passes on what comes for a loopback name with the secret as the first part of its path; 403 for all else."""

    def __init__(self, app: Asgi, secret: str) -> None:
        """Guard `app`, which sees paths without the secret."""
        self._app = app
        self._secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None
        first, slash, rest = scope["path"].lstrip("/").partition("/")
        # In constant time, so that no answer's delay tells how much of a guess is right.
        if not secrets.compare_digest(first.encode(), self._secret) or _host(scope) not in _HOSTS:
            return await _refuse(send)
        if not slash:
            return await _answer(send, 307, b"", {"location": f"/{first}/"})
        path = f"/{rest}"
        inner = {**scope, "path": path, "raw_path": path.encode(), "root_path": ""}
        await self._app(inner, receive, _with_headers(send))


def _host(scope: Scope) -> str:
    host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1").lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _with_headers(send: Send) -> Send:
    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        await send(message)

    return sent


async def _refuse(send: Send) -> None:
    await _answer(send, 403, b"Open the whole address that `woodshed view` printed: it ends in a secret.\n", {})


async def _answer(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    shown = {"content-type": "text/plain; charset=utf-8", **_HEADERS, **headers}
    pairs = [(name.encode(), value.encode()) for name, value in shown.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
