"""Sessions with an MCP server: one of its own for every rollout, torn down whatever happens, and counted."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from mcp import ClientSession, types

from woodshed import __version__
from woodshed.errors import McpServerError, McpServerUnreachable
from woodshed.mcp.sdk import McpError, is_changed_list, tool_call
from woodshed.mcp.server import Limits, Server
from woodshed.mcp.tool_answer import ToolAnswer, to_answer
from woodshed.mcp.transport import connected, explain, no_mcp

T = TypeVar("T")
STARTING = 2 * (os.cpu_count() or 2)
"""Most processes that are waited for their hello at the same time."""
_CLIENT = types.Implementation(name="woodshed", version=__version__)


@dataclass(slots=True)
class Tally:
    """What happened over all sessions of one `Sessions`."""

    opened: int = 0
    closed: int = 0
    calls: int = 0
    tool_errors: int = 0
    timeouts: int = 0
    cut_answers: int = 0
    broken_off: int = 0
    """Sessions that ended before they were told to."""
    changed_lists: int = 0
    """Times that a server said its list of tools had changed in the middle of a session."""


class Session:
    """One open session; `call` never raises for what a tool does, only for a session that is gone."""

    def __init__(self, server: Server, limits: Limits, tally: Tally) -> None:
        """Only `Sessions.open` makes one."""
        self.hello: types.InitializeResult | None = None
        self.tally = tally
        self._server = server
        self._limits = limits
        self._client: ClientSession | None = None
        self._ready = asyncio.Event()
        self._leave = asyncio.Event()
        self._is_cut = False
        self._garbage: Exception | None = None
        self._fault: McpServerError | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.calls = self.errors = 0

    @property
    def fault(self) -> McpServerError | None:
        """Why the session broke off, or None while it has not."""
        return self._fault

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolAnswer:
        """Return a tool's answer; an error of the tool, and its silence, are answers too.

        Raises:
            McpServerError: the session is gone.
        """
        self.calls += 1
        self.tally.calls += 1
        answer = await self._answer(name, arguments)
        self.errors += answer.is_error
        self.tally.tool_errors += answer.is_error
        self.tally.timeouts += answer.timed_out
        self.tally.cut_answers += answer.cut_chars > 0
        return answer

    async def _answer(self, name: str, arguments: dict[str, Any]) -> ToolAnswer:
        # Not `ClientSession.call_tool`: in every session it would first list all tools again.
        try:
            result = await self.ask(self.client.send_request(tool_call(name, arguments), types.CallToolResult))
        except TimeoutError:
            text = (
                f"the tool {name!r} gave no answer within {self._limits.call_s:g} s; it was not waited for any longer"
            )
            return ToolAnswer(text=text, is_error=True, timed_out=True)
        except McpError as refused:
            return ToolAnswer(text=f"{name}: {refused.error.message}", is_error=True)
        return to_answer(result, limit=self._limits.result_chars)

    @property
    def client(self) -> ClientSession:
        """The SDK's session, for requests other than tool calls."""
        assert self._client is not None, "a session is handed out only once it is open"
        return self._client

    async def ask(self, asking: Awaitable[T]) -> T:
        """Return the server's reply to one request of `client`.

        Raises:
            McpServerError: the session broke off.
            TimeoutError: no reply within `Limits.call_s`.
            McpError: the server answered with a protocol error.
        """
        assert self._keeper is not None
        reply = asyncio.ensure_future(asking)
        try:
            done, _ = await asyncio.wait(
                {reply, self._keeper}, timeout=self._limits.call_s, return_when=asyncio.FIRST_COMPLETED
            )
            if self._keeper in done or _is_closed(reply):
                self._is_cut = True
                self._leave.set()
                await asyncio.wait({self._keeper}, timeout=self._limits.close_s)
                raise self._broken()
            if reply not in done:
                raise TimeoutError
            return reply.result()
        finally:
            if not reply.done():
                reply.cancel()
                await asyncio.wait({reply}, timeout=1.0)

    def _broken(self) -> McpServerError:
        return self._fault or McpServerUnreachable(f"the session with {self._server.place!r} is over")

    async def keep(self) -> None:
        """Hold the connection from its opening to its end, in one task, as the SDK's task groups demand."""
        is_connected = False
        with tempfile.TemporaryFile("w+", errors="replace") as stderr:
            try:
                async with connected(self._server, stderr) as streams:
                    is_connected = True
                    self.tally.opened += 1
                    await self._hold(streams)
            except BaseException as error:
                # What ends a session is data for whoever waits on it; a cancellation of this very task goes on.
                if self._fault is None and (self._is_cut or not self._leave.is_set()):
                    self._fault = explain(self._server, error, stderr)
                if isinstance(error, asyncio.CancelledError):
                    raise
            finally:
                self.tally.closed += is_connected
                self.tally.broken_off += self._fault is not None and self.hello is not None

    async def _hold(self, streams: tuple[Any, Any]) -> None:
        async with ClientSession(*streams, message_handler=self._heard, client_info=_CLIENT) as client:
            self.hello = await client.initialize()
            self._client = client
            self._ready.set()
            await self._leave.wait()
            if self._is_cut:
                raise EOFError("the connection ended in the middle of a session")

    async def _heard(self, message: Any) -> None:
        """Note what the server says unasked; a page that is no MCP message is the end of an HTTP session's start."""
        if isinstance(message, Exception):
            self._garbage = message
            if self._server.url is not None and self.hello is None and self._keeper is not None:
                self._fault = no_mcp(self._server, message)
                self._keeper.cancel()
        else:
            self.tally.changed_lists += is_changed_list(message)

    async def opened(self, keeper: asyncio.Task[None]) -> None:
        """Wait until the server has said hello.

        Raises:
            McpServerError: it did not.
        """
        self._keeper = keeper
        waiting = asyncio.ensure_future(self._ready.wait())
        try:
            await asyncio.wait({waiting, keeper}, timeout=self._limits.open_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if keeper.done():
            raise self._broken()
        if not self._ready.is_set():
            said = f"; it wrote {str(self._garbage)[:200]!r} where a message was expected" if self._garbage else ""
            raise McpServerUnreachable(
                f"the server {self._server.place!r} did not say hello within {self._limits.open_s:g} s{said}"
            )

    async def end(self, keeper: asyncio.Task[None]) -> None:
        """End the session, politely where it was open; its process or HTTP session is gone when this returns."""
        self._leave.set()
        if self.hello is None:
            keeper.cancel()
        done, _ = await asyncio.wait({keeper}, timeout=self._limits.close_s)
        if not done:
            keeper.cancel()
            await asyncio.wait({keeper}, timeout=self._limits.close_s)


def _is_closed(reply: asyncio.Future[Any]) -> bool:
    """Whether the reply is the SDK's own note that the connection is gone."""
    if not reply.done() or reply.cancelled():
        return False
    error = reply.exception()
    gone = isinstance(error, McpError) and error.error.code == types.CONNECTION_CLOSED
    return gone or (error is not None and type(error).__name__ in ("ClosedResourceError", "BrokenResourceError"))


@dataclass(kw_only=True, eq=False)
class Sessions:
    """Opens sessions of one server, each isolated from the others, and knows how many were opened and closed."""

    server: Server
    limits: Limits = field(default_factory=Limits)
    tally: Tally = field(default_factory=Tally)
    _keepers: set[asyncio.Task[None]] = field(default_factory=set, repr=False)
    _doors: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = field(
        default_factory=WeakKeyDictionary, repr=False
    )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Session]:
        """Yield a fresh session: a new process, or a new HTTP session; it is ended whatever happens in the block.

        Raises:
            McpServerError: the server cannot be reached, wants a key, or does not speak MCP.
        """
        session = Session(self.server, self.limits, self.tally)
        async with self._door():
            keeper = asyncio.create_task(session.keep(), name=f"mcp session with {self.server.place}")
            self._keepers.add(keeper)
            keeper.add_done_callback(self._keepers.discard)
            try:
                await session.opened(keeper)
            except BaseException:
                await session.end(keeper)
                raise
        try:
            yield session
        finally:
            await session.end(keeper)

    def _door(self) -> AbstractAsyncContextManager[Any]:
        """Let few processes start at a time: many would make each other late for their hello."""
        if self.server.url is not None:
            return nullcontext()
        loop = asyncio.get_running_loop()
        return self._doors.setdefault(loop, asyncio.Semaphore(STARTING))

    async def drain(self) -> None:
        """Wait until every session that was opened in this event loop has ended, also those of cancelled rollouts."""
        loop = asyncio.get_running_loop()
        while ending := {k for k in self._keepers if k.get_loop() is loop}:
            await asyncio.wait(ending)
