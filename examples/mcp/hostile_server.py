"""An MCP server that misbehaves, to see how woodshed copes. Each switch is one kind of trouble.

python examples/mcp/hostile_server.py --hang --flood --change
python examples/mcp/hostile_server.py --http     # /mcp works, /key/mcp wants the token `sesame`, /503/mcp fails
"""

import argparse
import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakSet

from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.types import TextContent, Tool, ToolAnnotations

READS = ToolAnnotations(readOnlyHint=True)
EMPTY: dict[str, Any] = {"type": "object", "properties": {}}
INVALID: dict[str, Any] = {"type": "object", "properties": {"item": {"type": "sometimes"}}}
FLOOD_CHARS = 10_000_000


def tool(name: str, schema: dict[str, Any] | None = None) -> Tool:
    """Return a tool that claims to only read."""
    return Tool(name=name, description=f"The {name} tool.", inputSchema=schema or EMPTY, annotations=READS)


def build_server(chosen: argparse.Namespace) -> Server[Any, Any]:
    """Return the server with the chosen kinds of trouble."""
    server: Server[Any, Any] = Server("hostile")
    changed: WeakSet[Any] = WeakSet()

    def base() -> list[str]:
        return [] if chosen.none else ["reborn" if server.request_context.session in changed else "echo"]

    @server.list_tools()
    async def list_tools() -> list[Tool]:
        names = base() + [f"tool_{n:03}" for n in range(chosen.many)]
        names += [n for n in ("fail", "hang", "flood", "die", "change") if getattr(chosen, n)]
        broken = [tool("odd", INVALID)] if chosen.invalid else []
        return [*broken, *(tool(name) for name in names)]

    @server.call_tool(validate_input=False)
    async def call_tool(name: str, arguments: dict[str, Any]) -> list[TextContent]:
        if name == "fail":
            raise RuntimeError("the disk is on fire")
        if name == "hang":
            await asyncio.sleep(3600)
        if name == "die":
            os._exit(3)
        if name == "change":
            changed.add(server.request_context.session)
            await server.request_context.session.send_tool_list_changed()
        if name == "echo" and name not in base():
            raise RuntimeError("there is no tool 'echo' any more")
        text = "x" * FLOOD_CHARS if name == "flood" else f"{name} heard {arguments}"
        return [TextContent(type="text", text=text)]

    return server


TOKEN = "sesame"


class Door:
    """Answers by path: `/mcp` serves everyone, `/key/mcp` only with the token, and `/503/mcp` answers 503."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        from starlette.responses import PlainTextResponse

        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        first = scope["path"].strip("/").split("/")[0]
        status = int(first) if first.isdecimal() else None
        if first == "key" and headers.get("authorization") != f"Bearer {TOKEN}":
            status = 401
        if status is not None:
            return await PlainTextResponse("no", status_code=status)(scope, receive, send)
        await self.manager.handle_request(scope, receive, send)


async def serve_http(server: Server[Any, Any]) -> None:
    """Serve on loopback and print the address."""
    # Imported here, because a server over stdio is started for every session and doesn't need them.
    import uvicorn
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from starlette.applications import Starlette
    from starlette.routing import Mount

    manager = StreamableHTTPSessionManager(server, json_response=True)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with manager.run():
            yield

    app = Starlette(routes=[Mount("/", app=Door(manager))], lifespan=lifespan)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", flush=True)
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve(sockets=[listening])


async def serve_stdio(server: Server[Any, Any]) -> None:
    """Serve over stdio."""
    async with stdio_server() as (reading, writing):
        options = server.create_initialization_options(NotificationOptions(tools_changed=True))
        await server.run(reading, writing, options)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--none", action="store_true", help="list no tools")
    parser.add_argument("--many", type=int, default=0, metavar="N", help="list N further tools")
    parser.add_argument("--invalid", action="store_true", help="list a tool whose schema is no JSON Schema")
    for trouble, about in (
        ("fail", "raises"),
        ("hang", "never returns"),
        ("flood", "returns ten million characters"),
        ("die", "ends the process"),
        ("change", "changes the list of tools in the middle of a session"),
    ):
        parser.add_argument(f"--{trouble}", action="store_true", help=f"list a tool that {about}")
    parser.add_argument("--silent", action="store_true", help="start, and never say a word")
    parser.add_argument("--http", action="store_true", help="serve over HTTP, not over stdio")
    chosen = parser.parse_args()
    if chosen.silent:
        return asyncio.run(asyncio.sleep(3600))
    server = build_server(chosen)
    asyncio.run(serve_http(server) if chosen.http else serve_stdio(server))


if __name__ == "__main__":
    main()
