"""The wire to one server for one session: a process of its own, or an HTTP session of its own."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from typing import Any, TextIO
from urllib.parse import urlsplit

from mcp import StdioServerParameters, stdio_client
from mcp.types import METHOD_NOT_FOUND

from woodshed.engine.client.config import LOOPBACK
from woodshed.errors import McpServerError, McpServerUnreachable
from woodshed.mcp.sdk import McpError, http, streams_over_http
from woodshed.mcp.server import Server

_CONNECT_S = 10.0
_KEEPALIVE_S = 2.0
_IDLE_S = 600.0
"""A quiet HTTP stream may stay open this long; how long an answer is waited for is the session's own limit."""
_STDERR_LINES = 8


@asynccontextmanager
async def connected(server: Server, stderr: TextIO) -> AsyncIterator[tuple[Any, Any]]:
    """Yield the streams of a fresh connection; at the end the process is gone, or the HTTP session told to end.

    Args:
        server: where to.
        stderr: file that takes what a command writes there.
    """
    if server.url is None:
        async with _process(server, stderr) as streams:
            yield streams
        return
    async with _client(server) as client, streams_over_http(server.url, client) as (reading, writing, *_):
        yield reading, writing


def _process(server: Server, stderr: TextIO) -> AbstractAsyncContextManager[tuple[Any, Any]]:
    program, *arguments = server.command
    parameters = StdioServerParameters(command=program, args=arguments, env=dict(server.env) or None, cwd=server.cwd)
    return stdio_client(parameters, errlog=stderr)


def _client(server: Server) -> Any:
    async def refuse(response: Any) -> None:
        """Raise for an HTTP status that no MCP server answers a request with; version 2 of the SDK would hide it."""
        if _is_refusal(response):
            raise _status(server, response.status_code)

    local = urlsplit(server.url or "").hostname in LOOPBACK
    return http.AsyncClient(
        headers=dict(server.headers),
        timeout=http.Timeout(_IDLE_S, connect=_CONNECT_S),
        # Shorter than servers keep a quiet connection (uvicorn: 5 s): one that ends while a call is on its way to it
        # would end the session.
        limits=http.Limits(keepalive_expiry=_KEEPALIVE_S),
        follow_redirects=True,
        verify=_trust(),
        # A proxy that the environment names cannot reach a server on this machine's loopback.
        trust_env=not local,
        event_hooks={"response": [refuse]},
    )


def _is_refusal(response: Any) -> bool:
    """Whether the server, or something before it, refuses a request over HTTP; an error as JSON may be an answer."""
    request, code = response.request, response.status_code
    if request.method != "POST" or code < 400:
        return False
    if code == 404 and "mcp-session-id" in request.headers:
        return False  # The session is over, and the SDK says so to whoever waits.
    is_json = response.headers.get("content-type", "").startswith("application/json")
    return code in (401, 403, 429) or code >= 500 or not is_json


@cache
def _trust() -> ssl.SSLContext:
    """Return this machine's trust store, read once: that takes longer than a session on loopback."""
    return ssl.create_default_context()


def explain(server: Server, error: BaseException, stderr: TextIO) -> McpServerError:
    """Return what went wrong with a session as one error that names the server and the next step."""
    cause = _first(error)
    if isinstance(cause, McpServerError):
        return cause
    if isinstance(cause, http.HTTPStatusError):
        return _status(server, cause.response.status_code)
    if isinstance(cause, http.TransportError):
        return McpServerUnreachable(
            f"nothing answers at {server.place!r} ({type(cause).__name__}: {cause}); is the server running, and is the "
            "address right?"
        )
    if isinstance(cause, OSError) and server.url is None:
        return McpServerUnreachable(
            f"the command {server.place!r} cannot be started ({type(cause).__name__}: {cause}); expected a program and "
            "its arguments, such as 'python my_server.py'"
        )
    if server.url is None:
        return McpServerUnreachable(f"the server {server.place!r} broke off ({_short(cause)}); {_last_words(stderr)}")
    if isinstance(cause, McpError) and "content type" in str(cause).lower():
        return no_mcp(server, cause)
    return McpServerError(f"the server at {server.place!r} gave no usable answer ({_short(cause)})")


def no_mcp(server: Server, said: Exception) -> McpServerError:
    """Return the error for an address where something answers that is no MCP server."""
    return McpServerError(
        f"{server.place!r} does not answer as an MCP server ({said}); is the path right? Many servers answer at '/mcp'"
    )


def _status(server: Server, code: int) -> McpServerError:
    if code in (401, 403):
        sent = "a token or header was sent and refused" if server.headers else "no token was sent"
        return McpServerError(
            f"the server at {server.place!r} wants authorization (HTTP {code}; {sent}): pass `--token TOKEN` or "
            "`--header 'NAME: VALUE'` (in Python `Server.of(url, token=..., headers=...)`)"
        )
    if code >= 500 or code == 429:
        return McpServerUnreachable(f"the server at {server.place!r} failed with HTTP {code}")
    return McpServerError(
        f"{server.place!r} answers with HTTP {code} and not as an MCP server; is the path right? Many servers answer "
        "at '/mcp'"
    )


def _first(error: BaseException) -> BaseException:
    """Return the first cause inside nested groups, an error of the wire before a cancellation that it brought."""
    while isinstance(error, BaseExceptionGroup):
        error = next((e for e in error.exceptions if isinstance(e, Exception)), error.exceptions[0])
    return error


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _last_words(stderr: TextIO) -> str:
    stderr.seek(0)
    lines = [line for line in stderr.read().splitlines() if line.strip()][-_STDERR_LINES:]
    if not lines:
        return "it wrote nothing to its standard error; run it by hand: it should wait for input"
    return "its last words:\n" + "\n".join(lines)


def is_unknown_method(error: BaseException) -> bool:
    """Whether a server answered that it does not have the method at all."""
    return isinstance(error, McpError) and error.error.code == METHOD_NOT_FOUND
