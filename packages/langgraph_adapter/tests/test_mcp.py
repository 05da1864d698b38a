"""The agent for an MCP server's tools: it calls them where the session is, and ends when it has answered or may not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from etude.testing import ScriptedEngine, call_tool, in_order, say, scripted_rollout

pytest.importorskip("jsonschema", reason="comes with etude[mcp]")

from etude.mcp.answers import ToolAnswer
from etude.mcp.frameworks import Job
from etude.mcp.tools import Tool
from etude_langgraph.mcp import run_agent

LOOK = Tool(
    name="look",
    description="Look it up.",
    parameters={"properties": {"item": {"type": "string"}}, "required": ["item"], "type": "object"},
)


def job(called: list[Any], *, max_turns: int = 12) -> Job:
    """A job whose tool notes where it was called, and knows nothing of a Kazoo."""
    home = asyncio.get_running_loop()

    async def call(name: str, arguments: dict[str, object]) -> ToolAnswer:
        assert asyncio.get_running_loop() is home
        called.append((name, arguments))
        await asyncio.sleep(0)
        known = arguments["item"] == "Tuba"
        return ToolAnswer(text="7 left" if known else "no 'Kazoo' here", is_error=not known)

    return Job(task="How many {things}?", instructions="Look {it} up.", tools=[LOOK], call=call, max_turns=max_turns)


async def test_the_agent_calls_the_tools_and_answers() -> None:
    called: list[Any] = []
    script = in_order(call_tool("look", id="c1", item="Kazoo"), call_tool("look", id="c2", item="Tuba"), say("Seven."))

    with ScriptedEngine(script) as engine, scripted_rollout(engine) as rollout:
        answer = await run_agent(job(called))
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


async def test_an_agent_that_never_answers_is_stopped_at_its_turns() -> None:
    called: list[Any] = []

    with ScriptedEngine(lambda request: call_tool("look", item="Tuba")) as engine, scripted_rollout(engine):
        answer = await run_agent(job(called, max_turns=3))

    assert answer == ""
    assert len(engine.requests) == 3
