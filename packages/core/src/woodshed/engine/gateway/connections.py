"""Connections before a request: how long a request's head may take, how long it may be, and how many may be waited for.

A connection costs its opener nothing. So those that have sent no whole head yet are few and short-lived: a new one
takes the place of the oldest.
"""

from __future__ import annotations

import asyncio
import resource
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_WITHIN_S = 20.0
"""Longest wait for a request's head, from its connection or its first byte."""
MAX_HEAD_BYTES = 2**16
MAX_WAITING = 256
"""Connections that may be without a whole head at the same time."""
_OPEN_FILES = 2**16
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(HttpToolsProtocol):
    """One connection of uvicorn's, closed if it sends no request."""

    _waiting: ClassVar[dict[Connection, asyncio.TimerHandle]] = {}
    """Connections without a whole head → what will close them, oldest first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head; close the oldest that waits if there are too many."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._wait()
        if len(self._waiting) > MAX_WAITING:
            next(iter(self._waiting)).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head is too long."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self in self._waiting and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Wait for this request's head."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Take the request; its body is `guard`'s."""
        self._done_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Count the next head from here."""
        self._head_bytes = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._done_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self not in self._waiting:
            self._waiting[self] = self.loop.call_later(HEAD_WITHIN_S, self.transport.abort)

    def _done_waiting(self) -> None:
        if (timer := self._waiting.pop(self, None)) is not None:
            timer.cancel()


def raise_open_files() -> None:
    """Allow as many open connections as the system grants; the usual 1,024 are a small run's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
