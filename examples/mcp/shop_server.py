"""A music shop as an MCP server over an SQLite file: look up prices, stock and delivery; place and refund orders.

    python examples/mcp/shop_server.py                 # over stdio, one process per session
    python examples/mcp/shop_server.py --http          # over HTTP, prints its address

It is written with version 1 of the MCP SDK. As its client, woodshed takes version 1 or 2.

Every session works on its own copy of the database. No session sees what another writes, and the file never changes.
"""

import argparse
import asyncio
import json
import os
import socket
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.prompts import Prompt
from mcp.types import CallToolResult, Completion, PromptReference, TextContent, ToolAnnotations
from starlette.requests import Request
from starlette.responses import JSONResponse

from woodshed_tiny_world.scenarios import QUESTIONS
from woodshed_tiny_world.world import CURRENCIES, INSTRUMENTS, SYSTEM_PROMPT, Currency, Shop

DISCONTINUED = ("Serpent", "Sackbut")
"""Still in the catalogue but no longer sold: the dry run rejects tasks about them."""
READS = ToolAnnotations(readOnlyHint=True)
DESTROYS = ToolAnnotations(readOnlyHint=False, destructiveHint=True)
SCHEMA = """
CREATE TABLE catalogue (item TEXT PRIMARY KEY);
CREATE TABLE instruments (item TEXT PRIMARY KEY, eur INT, usd INT, stock INT, days INT);
CREATE TABLE orders (number INTEGER PRIMARY KEY, item TEXT, status TEXT);
CREATE TABLE refunds (number INTEGER PRIMARY KEY REFERENCES orders, eur INT);
"""


def make_database(path: Path) -> None:
    """Write the shop's SQLite file: the contents of `woodshed_tiny_world.Shop`, and a few orders."""
    shop = Shop()
    asked = [(i, shop.price(i, "EUR"), shop.price(i, "USD"), shop.stock(i), shop.delivery(i)) for i in INSTRUMENTS]
    rows = [(item, *(int(answer.split()[0]) for answer in answers)) for item, *answers in asked]
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with closing(sqlite3.connect(aside)) as db:
        db.executescript(SCHEMA)
        db.executemany("INSERT INTO catalogue VALUES (?)", [(i,) for i in (*INSTRUMENTS, *DISCONTINUED)])
        db.executemany("INSERT INTO instruments VALUES (?, ?, ?, ?, ?)", rows)
        db.executemany("INSERT INTO orders (item, status) VALUES (?, 'sent')", [(i,) for i in INSTRUMENTS[:5]])
        db.commit()
    aside.replace(path)


@dataclass(kw_only=True)
class Door:
    """How many sessions were opened and closed."""

    opened: int = 0
    closed: int = 0


def build_server(path: Path, door: Door) -> FastMCP[sqlite3.Connection]:
    """Return the server over the SQLite file at `path`."""

    @asynccontextmanager
    async def own_copy(_: Any) -> AsyncIterator[sqlite3.Connection]:
        """Give a session its own copy of the database, for as long as it lasts."""
        door.opened += 1
        try:
            with closing(sqlite3.connect(":memory:")) as copy:
                with closing(sqlite3.connect(path)) as original:
                    original.backup(copy)
                yield copy
        finally:
            door.closed += 1

    # The SDK logs an error with a traceback whenever an HTTP session ends normally; hence the log level.
    server = FastMCP[sqlite3.Connection](
        "music-shop", instructions=SYSTEM_PROMPT, lifespan=own_copy, json_response=True, log_level="CRITICAL"
    )
    add_reading_tools(server)
    add_writing_tools(server)
    add_prompts(server)

    @server.resource("shop://items", name="items", mime_type="application/json")
    def items() -> str:
        """Return every instrument of the catalogue."""
        with closing(sqlite3.connect(path)) as db:
            return json.dumps([row[0] for row in db.execute("SELECT item FROM catalogue")])

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion | None:
        """Return the values that a prompt's argument may have."""
        if isinstance(ref, PromptReference) and argument.name == "currency":
            return Completion(values=[c for c in CURRENCIES if c.startswith(argument.value)])
        return None

    @server.custom_route("/sessions", methods=["GET"])
    async def sessions(_: Request) -> JSONResponse:
        """Return how many sessions were opened and closed."""
        return JSONResponse({"opened": door.opened, "closed": door.closed})

    return server


def database(ctx: Any) -> sqlite3.Connection:
    """Return the session's copy of the database."""
    found: sqlite3.Connection = ctx.request_context.lifespan_context
    return found


def look_up(ctx: Any, column: str, item: str, form: str) -> CallToolResult:
    """Return one fact about an instrument, or an error if there is no such instrument."""
    found = database(ctx).execute(f"SELECT {column} FROM instruments WHERE item = ?", (item,)).fetchone()
    return said(form.format(found[0])) if found else said(f"no {item!r} here", is_error=True)


def said(text: str, *, is_error: bool = False) -> CallToolResult:
    """Return a tool's answer."""
    return CallToolResult(content=[TextContent(type="text", text=text)], isError=is_error)


def add_reading_tools(server: FastMCP[sqlite3.Connection]) -> None:
    """Add the tools that only read."""

    @server.tool(annotations=READS)
    def get_price(item: str, currency: Currency, ctx: Context[Any, Any, Any]) -> CallToolResult:
        """Price of an item."""
        return look_up(ctx, "eur" if currency == "EUR" else "usd", item, f"{{}} {currency}")

    @server.tool(annotations=READS)
    def get_stock(item: str, ctx: Context[Any, Any, Any]) -> CallToolResult:
        """How many are left."""
        return look_up(ctx, "stock", item, "{} left")

    @server.tool(annotations=READS)
    def get_delivery(item: str, ctx: Context[Any, Any, Any]) -> CallToolResult:
        """Days to deliver an item."""
        return look_up(ctx, "days", item, "{} days")

    @server.tool(annotations=READS)
    def list_orders(ctx: Context[Any, Any, Any]) -> CallToolResult:
        """List all orders."""
        rows = database(ctx).execute("SELECT number, item, status FROM orders ORDER BY number")
        return said("\n".join(f"{number}: {item}, {status}" for number, item, status in rows) or "no orders")


def add_writing_tools(server: FastMCP[sqlite3.Connection]) -> None:
    """Add the tools that change something. woodshed leaves them out unless they are allowed by name."""

    @server.tool(annotations=DESTROYS)
    def place_order(item: str, ctx: Context[Any, Any, Any]) -> CallToolResult:
        """Order one item."""
        db = database(ctx)
        if not db.execute("UPDATE instruments SET stock = stock - 1 WHERE item = ? AND stock > 0", (item,)).rowcount:
            return said(f"no {item!r} left to order", is_error=True)
        return said(f"order {db.execute('INSERT INTO orders (item, status) VALUES (?, ?)', (item, 'new')).lastrowid}")

    @server.tool(annotations=DESTROYS)
    def cancel_order(number: int, ctx: Context[Any, Any, Any]) -> CallToolResult:
        """Cancel an order."""
        found = database(ctx).execute("UPDATE orders SET status = 'cancelled' WHERE number = ?", (number,)).rowcount
        return said(f"order {number} cancelled") if found else said(f"no order {number}", is_error=True)

    @server.tool(annotations=DESTROYS)
    def refund_order(number: int, ctx: Context[Any, Any, Any]) -> CallToolResult:
        """Refund an order."""
        db = database(ctx)
        query = "SELECT eur FROM orders JOIN instruments USING (item) WHERE number = ?"
        found = db.execute(query, (number,)).fetchone()
        if found is None:
            return said(f"no order {number}", is_error=True)
        db.execute("INSERT OR REPLACE INTO refunds VALUES (?, ?)", (number, found[0]))
        return said(f"{found[0]} EUR refunded")


def add_prompts(server: FastMCP[sqlite3.Connection]) -> None:
    """Add the customers' questions, each as an MCP prompt named after the tool that answers it."""
    for tool, wordings in QUESTIONS.items():
        for number, wording in enumerate(wordings):
            server.add_prompt(Prompt.from_function(asking(wording), name=f"{tool}_{number}", description=wording))


def asking(wording: str) -> Any:
    """Return a prompt's function: its parameters are the slots of the wording."""
    if "{currency}" in wording:
        return lambda item, currency: wording.format(item=item, currency=currency)
    return lambda item: wording.format(item=item)


async def serve_http(server: FastMCP[sqlite3.Connection], port: int) -> None:
    """Serve on loopback and print the address; port 0 takes a free one."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", port))
    listening.listen()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="warning", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve(sockets=[listening])


def end_with_stdin() -> None:
    """End this process when its standard input closes, as it does when the program that started it is gone."""
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", type=Path, default=Path("runs/mcp-shop.sqlite"), help="the file; made where it is not")
    parser.add_argument("--http", action="store_true", help="serve over HTTP, not over stdio")
    parser.add_argument("--port", type=int, default=0, help="with --http; 0 takes a free one")
    parser.add_argument("--end-with-stdin", action="store_true", help="with --http; end when stdin closes")
    chosen = parser.parse_args()
    chosen.db.parent.mkdir(parents=True, exist_ok=True)
    if not chosen.db.exists():
        make_database(chosen.db)
    server = build_server(chosen.db, Door())
    if not chosen.http:
        return server.run("stdio")
    if chosen.end_with_stdin:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    asyncio.run(serve_http(server, chosen.port))


if __name__ == "__main__":
    main()
