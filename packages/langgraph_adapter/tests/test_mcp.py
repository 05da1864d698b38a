"""The agent for an MCP server's tools: it calls them where the session is, and ends when it has answered or may not."""

from __future__ import annotations

import pytest

pytest.importorskip("jsonschema", reason="comes with woodshed[mcp]")
pytest.importorskip("mcp", reason="comes with woodshed[mcp]")

from woodshed.testing.mcp_agents import check_it_calls_and_answers, check_it_stops
from woodshed_langgraph.mcp import run_agent


async def test_the_agent_calls_the_tools_and_answers() -> None:
    await check_it_calls_and_answers(run_agent)


async def test_an_agent_that_never_answers_is_stopped_at_its_turns() -> None:
    await check_it_stops(run_agent)
