"""What attempts at one task share by way of ADK's services, and that the README's remedies keep them apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from author_agents import agent
from google.adk.runners import InMemoryRunner
from google.adk.tools import load_artifacts, preload_memory
from google.adk.tools.tool_context import ToolContext
from google.genai import types
from running import QUIET, message

from woodshed.capture import Rollout
from woodshed.testing import ScriptedEngine, call_tool, say, scripted_rollout
from woodshed_adk import instrument

pytestmark = QUIET


async def keep(tool_context: ToolContext) -> str:
    """Keep something of every kind that ADK keeps."""
    tool_context.state.update({"user:seen": "by the user", "app:seen": "by the app"})
    await tool_context.save_artifact("user:seen.txt", types.Part(text="an artifact"))
    return "kept"


INSTRUCTION = "User: {user:seen?}. App: {app:seen?}."


def shop() -> InMemoryRunner:
    tools = [keep, load_artifacts, preload_memory]
    clerk = agent("gemini-2.5-flash", "clerk", tools=tools)
    clerk.instruction = INSTRUCTION
    return InMemoryRunner(agent=instrument(clerk), app_name="shop")


SHARED = shop()


async def turn(runner: InMemoryRunner, user_id: str, session_id: str | None) -> None:
    service = runner.session_service
    session = session_id and await service.get_session(app_name="shop", user_id=user_id, session_id=session_id)
    if not session:
        session = await service.create_session(app_name="shop", user_id=user_id, session_id=session_id)
    async for _ in runner.run_async(user_id=user_id, session_id=session.id, new_message=message("parcel 7")):
        pass
    session = await service.get_session(app_name="shop", user_id=user_id, session_id=session.id)
    await runner.memory_service.add_session_to_memory(session)


async def one_session(rollout: Rollout) -> None:
    await turn(SHARED, "customer", "s")


async def one_user(rollout: Rollout) -> None:
    await turn(SHARED, "customer", None)


async def a_user_for_each_rollout(rollout: Rollout) -> None:
    await turn(SHARED, rollout.rollout_id, None)


async def a_runner_for_each_rollout(rollout: Rollout) -> None:
    await turn(shop(), "customer", "s")


@pytest.mark.parametrize(
    ("attempt", "shared"),
    [
        (one_session, {"history", "user", "app", "memory", "artifact"}),
        (one_user, {"user", "app", "memory", "artifact"}),
        (a_user_for_each_rollout, {"app"}),
        (a_runner_for_each_rollout, set[str]()),
    ],
)
async def test_what_a_second_attempt_reads_of_the_first(
    engine: ScriptedEngine, attempt: Callable[[Rollout], Awaitable[None]], shared: set[str]
) -> None:
    global SHARED
    SHARED = shop()

    def clerk(request: dict[str, Any]) -> Any:
        told = sum(said["role"] == "tool" for said in request["messages"])
        asked = sum(said["role"] == "user" and said["content"] == "parcel 7" for said in request["messages"])
        return say("Done with parcel 7.") if told >= asked else call_tool("keep")

    engine.script = clerk
    first_requests = []
    for _ in range(2):
        with scripted_rollout(engine) as rollout:
            await attempt(rollout)
        of_rollout = [s for s in engine.requests if s.headers["authorization"] == f"Bearer {rollout.secret}"]
        first_requests.append(of_rollout[0].body["messages"])

    second = "\n".join(str(said["content"]) for said in first_requests[1])
    read = {
        "history": any(said["role"] == "assistant" for said in first_requests[1]),
        "user": "by the user" in second,
        "app": "by the app" in second,
        "memory": "<PAST_CONVERSATIONS>" in second,
        "artifact": "seen.txt" in second,
    }
    assert {name for name, is_read in read.items() if is_read} == shared
    assert (first_requests[0] == first_requests[1]) == (not shared)
