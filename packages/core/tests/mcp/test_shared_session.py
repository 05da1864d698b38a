"""An MCP session that several rollouts share: what its server samples is the asking rollout's, or it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from mcp import ClientSession, types

from woodshed.capture import Rollout, bind, require_rollout, take_late_calls
from woodshed.errors import LeakError

try:  # version 2 of the SDK
    from mcp.client._memory import InMemoryTransport  # type: ignore[import-not-found]
    from mcp.server.mcpserver import Context, MCPServer  # type: ignore[import-not-found]
except ImportError:
    from mcp.server.fastmcp import Context  # type: ignore[assignment]
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.shared.memory import create_connected_server_and_client_session

    InMemoryTransport = None

# The SDK's own settings class warns about itself when it is made, and version 2 of sampling, which it still has.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Field 'lifespan'"),
    pytest.mark.filterwarnings("ignore:The sampling capability"),
]

A, B = (Rollout(base_url="http://127.0.0.1:1/v1", secret=name, rollout_id=name) for name in "AB")


@pytest.fixture(autouse=True)
def no_late_calls() -> Iterator[None]:
    yield
    take_late_calls()


def sampling_server() -> Any:
    server = MCPServer("sampler")
    both = asyncio.Barrier(2)

    @server.tool()
    async def ask(together: bool, ctx: Context) -> str:
        """Ask the client's model."""
        if together:
            await both.wait()
        message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="who?"))
        answer = await ctx.session.create_message([message], max_tokens=8)
        assert isinstance(answer.content, types.TextContent)
        return answer.content.text

    return server


@asynccontextmanager
async def session_with(server: Any) -> AsyncIterator[ClientSession]:
    """Open a session in this process, in either version of the SDK."""
    if InMemoryTransport is None:
        async with create_connected_server_and_client_session(server, sampling_callback=_answer) as session:
            yield session
        return
    async with (
        InMemoryTransport(server) as (read, write),
        ClientSession(read, write, sampling_callback=_answer) as session,
    ):
        await session.initialize()
        yield session


class Sampler:
    """One session for all, opened by whoever asks first."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack, self._session = stack, None

    async def ask(self, together: bool = False) -> str:
        if self._session is None:
            self._session = await self._stack.enter_async_context(session_with(sampling_server()))
        session: ClientSession = self._session
        try:
            result = await session.call_tool("ask", {"together": together})
        except Exception as error:  # version 2 raises what version 1 returns as the tool's answer
            return str(error)
        return "".join(c.text for c in result.content if isinstance(c, types.TextContent))


async def _answer(_: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult | types.ErrorData:
    try:
        rollout = require_rollout("a sampled model call")
    except LeakError as error:
        return types.ErrorData(code=-1, message=f"refused: {error}")
    text = types.TextContent(type="text", text=rollout.rollout_id if rollout else "own")
    return types.CreateMessageResult(role="assistant", content=text, model="m")


async def inside(rollout: Rollout, work: Callable[[], Awaitable[str]]) -> str:
    with bind(rollout):
        return await work()


async def test_a_shared_session_samples_for_the_rollout_whose_request_it_works_on() -> None:
    async with AsyncExitStack() as stack:
        sampler = Sampler(stack)
        with bind(A):
            seen = [await sampler.ask()]
        with bind(B):
            seen.append(await sampler.ask())
        with bind(A):
            seen.append(await sampler.ask())

    assert seen == ["A", "B", "A"]


async def test_where_two_rollouts_wait_nobody_knows_whose_it_is_and_both_fail() -> None:
    async with AsyncExitStack() as stack:
        sampler = Sampler(stack)
        with bind(A):
            await sampler.ask()
        answers = await asyncio.gather(
            *(asyncio.create_task(inside(r, lambda: sampler.ask(together=True))) for r in (A, B))
        )

    assert all("2 rollouts wait for answers of one MCP session" in answer for answer in answers)
    assert isinstance(A.error, LeakError) and isinstance(B.error, LeakError)
