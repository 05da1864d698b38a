"""The HTTP under the scripted servers: JSON answers and event streams, on loopback."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    """A server with a thread a connection, which says nothing of clients that hang up."""

    daemon_threads = True
    request_queue_size = 256
    keeps_connections = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: a client that hangs up is an ordinary event in a test."""


class LoopbackHandler(BaseHTTPRequestHandler):
    """Reads and answers JSON."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LoopbackServer

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""

    def read_json(self) -> dict[str, Any]:
        """Return the request's body; an empty one where it is no object."""
        parsed = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        return parsed if isinstance(parsed, dict) else {}

    def send_json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """Answer whole."""
        data = json.dumps(body).encode()
        self._begin(status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def send_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Answer as a stream of server-sent events, closed by `[DONE]`."""
        self._begin(200, {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"})
        for event in (*map(json.dumps, events), "[DONE]"):
            data = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not self.server.keeps_connections:
            self.send_header("Connection", "close")
        self.end_headers()
