"""The official MCP SDK, of major version 1 or 2: what differs between the two is said here and nowhere else.

Version 2 calls its Python fields by snake-case names, has another HTTP client and another name for its error.
"""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from typing import Any

from mcp import types
from mcp.client import streamable_http
from mcp.shared import exceptions

MAJOR = int(metadata.version("mcp").partition(".")[0])
McpError: Any = getattr(exceptions, "McpError" if MAJOR == 1 else "MCPError")
"""A protocol error that the server answered with, or the SDK's own note that the connection is gone."""
http: Any = importlib.import_module("httpx" if MAJOR == 1 else "httpx2")
"""The HTTP library that the SDK's clients are made of."""
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def field(message: Any, name: str) -> Any:
    """Return a field of a protocol message by the name it has on the wire, such as `inputSchema`."""
    return getattr(message, name if MAJOR == 1 else _HUMP.sub("_", name).lower())


def tool_call(name: str, arguments: dict[str, Any]) -> Any:
    """Return the request that calls a tool."""
    request = types.CallToolRequest(params=types.CallToolRequestParams(name=name, arguments=arguments))
    return types.ClientRequest(request) if MAJOR == 1 else request


def is_changed_list(message: Any) -> bool:
    """Whether a message says that the server's list of tools has changed."""
    return isinstance(getattr(message, "root", message), types.ToolListChangedNotification)


def streams_over_http(url: str, client: Any) -> Any:
    """Return the context that yields the reading and the writing stream of an HTTP session, first of all it yields."""
    # Version 2 would break a session off at an answer of more than 1 MiB; here `Limits.result_chars` cuts it.
    limits: dict[str, Any] = {} if MAJOR == 1 else {"max_sse_event_size": None}
    return streamable_http.streamable_http_client(url, http_client=client, **limits)
