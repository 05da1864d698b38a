"""Inside a rollout an agent yields, keeps and raises exactly what it does uninstrumented on the same answers.

Uninstrumented means: on ADK's own model for OpenAI-compatible servers. The contract's row 21 holds this for an agent
with a tool, one with a typed answer and one that transfers; here is what it has not.
"""

from __future__ import annotations

from typing import Any

import pytest
from author_agents import AGENTS, CALLS, QUESTION, author_model
from google.adk.apps.app import App
from running import QUIET, SSE, ask, in_any_order, plain, runner_of, session_of

from woodshed.testing import ScriptedEngine, scripted_rollout
from woodshed_adk import instrument

pytestmark = QUIET

IN_THE_CONTRACT = {"with_tool", "schema", "transfer"}
MODES: dict[str, dict[str, Any]] = {"plain": {}, "sse": {"run_config": SSE}, "sync": {"sync": True}}


async def seen(built: Any, mode: str) -> dict[str, Any]:
    """Run one turn and return all that a caller can see."""
    runner = runner_of(built)
    events = await ask(runner, QUESTION, **MODES[mode])
    session = await session_of(runner)
    return {
        "events": in_any_order(events),
        "kept": in_any_order(session.events),
        "state": plain(session.state),
    }


def root_of(built: Any) -> Any:
    return built.root_agent if isinstance(built, App) else built


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in AGENTS if name not in IN_THE_CONTRACT])
async def test_an_agent_in_a_rollout_is_the_uninstrumented_agent(engine: ScriptedEngine, name: str, mode: str) -> None:
    uninstrumented = await seen(AGENTS[name](author_model(engine.base_url)), mode)
    own_calls = len(engine.requests)
    built = AGENTS[name](author_model(engine.base_url))
    assert instrument(root_of(built)) is root_of(built)

    with scripted_rollout(engine) as rollout:
        practised = await seen(built, mode)

    assert practised == uninstrumented
    assert {request.rollout_id for request in engine.requests[own_calls:]} <= {rollout.rollout_id}
    calls = engine.trajectory(rollout).calls
    assert len(calls) == own_calls == CALLS[name]
    assert all(call.note is not None and call.tokens.completions and not call.note.superseded for call in calls)
