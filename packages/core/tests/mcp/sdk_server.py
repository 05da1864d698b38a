"""A server written with whichever version of the SDK is installed; over stdio, or with `--http` over HTTP."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import uvicorn
from mcp.types import CallToolResult, TextContent
from starlette.requests import Request
from starlette.responses import JSONResponse

try:
    from mcp.server.mcpserver import MCPServer  # type: ignore[import-not-found]
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer

server: Any = MCPServer("sdk", instructions="Answer in numbers.", log_level="CRITICAL")


@server.tool()
def total(one: int, other: int) -> CallToolResult:
    """Sum of two numbers."""
    return CallToolResult(content=[TextContent(type="text", text=str(one + other))])


@server.tool()
def long_answer(chars: int) -> CallToolResult:
    """Answer at length."""
    return CallToolResult(content=[TextContent(type="text", text="x" * chars)])


@server.tool()
def table(rows: int) -> dict[str, int]:
    """Answer with structured content."""
    return {"rows": rows}


@server.prompt()
def ask_sum(one: str, other: str) -> str:
    """Ask for a sum."""
    return f"What is {one} and {other}?"


@server.resource("sum://known", name="known", mime_type="text/plain")
def known() -> str:
    """Say what is known."""
    return "1 and 1 are 2"


@server.custom_route("/refused/{status}/mcp", methods=["POST"])
async def refused(request: Request) -> JSONResponse:
    """Refuse in JSON that is no message of the protocol."""
    return JSONResponse({"error": "invalid_token"}, status_code=int(request.path_params["status"]))


def main() -> None:
    """Serve."""
    if "--http" not in sys.argv:
        return server.run("stdio")
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="critical", timeout_graceful_shutdown=1)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    main()
