"""What stands before both doors: who may speak to them at all, how much they may say, and for how long.

A web page in a browser on this machine can send requests to loopback without being asked (a form, a `fetch` in mode
`no-cors`), and a name that an attacker points at 127.0.0.1 makes them look like its own. So a request that a page sent
is refused, and a loopback engine answers only to loopback's names and those it was told of.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from woodshed.engine.gateway.asgi import Receive, Reply, Scope, Send, header

MAX_BODY_BYTES = 64 * 2**20
"""Largest request: some 16 million tokens of text."""
BODY_WITHIN_S = 60.0
"""Longest wait for the next part of a request's body."""

_App = Callable[[Scope, Receive, Send], Awaitable[None]]


def _place(origin: str) -> str | None:
    """Return host and port of an `Origin`; None where it is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


class Guard:
    """ASGI middleware; refuses with 403, 408 or 413 before anything of a request is believed."""

    def __init__(self, app: _App, *, hosts: Collection[str] | None) -> None:
        """`hosts` are the names the engine answers to; None is any."""
        self._app = app
        self._hosts = None if hosts is None else {name.lower() for name in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if why := self._foreign(scope):
            headers = {"connection": "close"}
            await Reply(send).send_error(403, why, kind="permission_error", code="foreign_origin", headers=headers)
            return
        door = _Limited(receive, send)
        declared = header(scope, b"content-length") or "0"
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            await door.refuse(413, _TOO_LARGE, "request_too_large")
            return
        try:
            await self._app(scope, door.receive, door.send)
        except Exception:
            # Once it is refused, whatever the app makes of a request without its end is of no interest.
            if not door.is_refused:
                raise

    def _foreign(self, scope: Scope) -> str | None:
        host, origin = header(scope, b"host") or "", header(scope, b"origin")
        if origin is not None and _place(origin) != host.lower():
            return f"a page of {origin!r} may not speak to this engine"
        name = _name(host)
        if self._hosts is None or _is_loopback(name) or name in self._hosts:
            return None
        return (
            f"this engine does not answer to the host {name!r}, but to localhost"
            + "".join(f", {known}" for known in sorted(self._hosts))
            + "; start it with `--allow-host` to add one"
        )


class _Limited:
    """One request's body within its limits; beyond them the client gets its answer and the app a client that left."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.is_refused = False
        self._receive, self._send = receive, send
        self._taken, self._is_whole = 0, False

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next event."""
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                event = await self._receive()
        except TimeoutError:
            return await self.refuse(408, f"no more of the body came within {BODY_WITHIN_S:g} s", "request_timeout")
        self._taken += len(event.get("body", b""))
        self._is_whole = not event.get("more_body", False)
        if self._taken > MAX_BODY_BYTES:
            return await self.refuse(413, _TOO_LARGE, "request_too_large")
        return event

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send an event of the app's answer, unless the request was refused."""
        if self.is_refused:
            return
        if message["type"] == "http.response.start" and message["status"] in _TURNED_AWAY:
            # Whoever was turned away may not hold the connection.
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await self._send(message)

    async def refuse(self, status: int, message: str, code: str) -> MutableMapping[str, Any]:
        """Answer with an error, and return the event of a client that has left."""
        if not self.is_refused:
            self.is_refused = self._is_whole = True
            await Reply(self._send).send_error(status, message, code=code, headers={"connection": "close"})
        return {"type": "http.disconnect"}


_TURNED_AWAY = (401, 403, 404, 405)
_TOO_LARGE = f"the request is larger than {MAX_BODY_BYTES // 2**20} MiB"


def _name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


@lru_cache(maxsize=64)  # every request names the engine, mostly by one name
def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
