"""What every adapter's agent for an MCP server's tools must do, checked against a scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from woodshed.mcp.frameworks import Job
from woodshed.mcp.tool_answer import ToolAnswer
from woodshed.mcp.tools import Tool
from woodshed.testing import ScriptedEngine, call_tool, in_order, say, scripted_rollout

RunAgent = Callable[[Job], Awaitable[str]]
_LOOK = Tool(
    name="look",
    description="Look it up.",
    parameters={"properties": {"item": {"type": "string"}}, "required": ["item"], "type": "object"},
)


def _job(called: list[Any], *, max_turns: int = 12) -> Job:
    """A job whose tool notes where it was called, and knows nothing of a Kazoo."""
    home = asyncio.get_running_loop()

    async def call(name: str, arguments: dict[str, object]) -> ToolAnswer:
        assert asyncio.get_running_loop() is home
        called.append((name, arguments))
        await asyncio.sleep(0)
        known = arguments["item"] == "Tuba"
        return ToolAnswer(text="7 left" if known else "no 'Kazoo' here", is_error=not known)

    return Job(task="How many {things}?", instructions="Look {it} up.", tools=[_LOOK], call=call, max_turns=max_turns)


async def check_it_calls_and_answers(run_agent: RunAgent) -> None:
    """The agent calls tools where the session is, reads what they say, and gives the answer."""
    called: list[Any] = []
    script = in_order(call_tool("look", id="c1", item="Kazoo"), call_tool("look", id="c2", item="Tuba"), say("Seven."))

    with ScriptedEngine(script) as engine, scripted_rollout(engine) as rollout:
        answer = await run_agent(_job(called))
    trajectory = engine.trajectory(rollout)

    assert answer == "Seven."
    assert called == [("look", {"item": "Kazoo"}), ("look", {"item": "Tuba"})]
    first, *_, last = (seen.body for seen in engine.requests)
    told = [str(m["content"]) for m in last["messages"] if m["role"] == "tool"]
    assert "no 'Kazoo' here" in told[0] and "7 left" in told[1]
    assert "Look {it} up." in first["messages"][0]["content"]
    assert "How many {things}?" in first["messages"][1]["content"]
    offered = first["tools"][0]["function"]
    assert (offered["name"], offered["description"]) == ("look", "Look it up.")
    assert offered["parameters"]["properties"] == {"item": {"type": "string"}}
    assert [(t.name, t.error is not None) for t in trajectory.tool_calls] == [("look", True), ("look", False)]


async def check_it_stops(run_agent: RunAgent) -> None:
    """An agent that never answers is stopped at its turns."""
    called: list[Any] = []

    with ScriptedEngine(lambda request: call_tool("look", item="Tuba")) as engine, scripted_rollout(engine):
        answer = await run_agent(_job(called, max_turns=3))

    assert answer == ""
    assert len(engine.requests) == 3
