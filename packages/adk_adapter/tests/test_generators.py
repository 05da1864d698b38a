"""An agent of the author's own is a generator: what it holds open between two events is not around their reader."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from author_agents import agent, author_model, quietly
from google.adk.agents import BaseAgent, LlmAgent, SequentialAgent
from google.adk.agents.invocation_context import InvocationContext
from google.adk.events.event import Event
from google.adk.workflow import START, Workflow
from google.genai import types
from running import QUIET, message, runner_of

import woodshed
from woodshed.capture import current_rollout
from woodshed.testing import ScriptedEngine, scripted_rollout
from woodshed_adk import instrument

pytestmark = QUIET

GEMINI = "gemini-2.5-flash"


class Checked(BaseAgent):
    """Lets a judge that is not to be trained speak first, then its writer."""

    judge: LlmAgent
    writer: LlmAgent

    async def _run_async_impl(self, ctx: InvocationContext) -> AsyncGenerator[Event, None]:
        with woodshed.untracked():
            async for event in self.judge.run_async(ctx):
                yield event
        async for event in self.writer.run_async(ctx):
            yield event


def checked(engine: ScriptedEngine) -> Checked:
    judge, writer = agent(author_model(engine.base_url), "judge"), agent(GEMINI, "writer")
    return Checked(name="checked", judge=judge, writer=writer, sub_agents=[judge, writer])


async def events(built: Any, session_id: str = "s") -> AsyncGenerator[Event, None]:
    runner = runner_of(built)
    await runner.session_service.create_session(app_name=runner.app_name, user_id="u", session_id=session_id)
    async for event in runner.run_async(user_id="u", session_id=session_id, new_message=message("hi")):
        yield event


def whose(engine: ScriptedEngine, secret: str) -> list[str]:
    return ["policy" if seen.headers["authorization"] == f"Bearer {secret}" else "author" for seen in engine.requests]


async def test_who_reads_an_agents_events_is_in_the_rollout(engine: ScriptedEngine) -> None:
    instrument()
    seen = []
    with scripted_rollout(engine) as rollout:
        async for event in events(checked(engine)):
            seen.append((event.author, current_rollout()))

    assert seen == [("judge", rollout), ("writer", rollout)]
    assert whose(engine, rollout.secret) == ["author", "policy"]


async def test_the_rollout_goes_on_where_an_agent_was_left_early(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine) as rollout:
        async for _ in events(checked(engine)):
            break
        async for _ in events(agent(GEMINI, "next")):
            pass

    assert whose(engine, rollout.secret) == ["author", "policy"]
    assert [note.agent for note in rollout.recorder.notes()] == ["next"]


async def test_an_agent_that_reads_another_directly_may_leave_it_early(engine: ScriptedEngine) -> None:
    class Impatient(BaseAgent):
        """Takes the first event of one agent, and runs another."""

        first: BaseAgent
        then: BaseAgent

        async def _run_async_impl(self, ctx: InvocationContext) -> AsyncGenerator[Event, None]:
            async for event in self.first.run_async(ctx):
                yield event
                break
            async for event in self.then.run_async(ctx):
                yield event

    first, then = checked(engine), agent(GEMINI, "then")
    instrument()
    with scripted_rollout(engine) as rollout:
        built = Impatient(name="impatient", first=first, then=then, sub_agents=[first, then])
        authors = [event.author async for event in events(built)]

    assert authors == ["judge", "then"]
    assert whose(engine, rollout.secret) == ["author", "policy"]


@pytest.mark.parametrize("shape", ["sequential", "graph"])
async def test_the_next_agent_of_a_line_is_in_the_rollout(engine: ScriptedEngine, shape: str) -> None:
    async def narrate(node_input: Any) -> AsyncGenerator[Event, None]:
        with woodshed.untracked():
            yield Event(author="narrator", content=types.Content(role="model", parts=[types.Part(text="Well.")]))
            yield Event(output="go on")

    writer = agent(GEMINI, "next")
    line = (
        quietly(SequentialAgent, name="line", sub_agents=[checked(engine), writer])
        if shape == "sequential"
        else Workflow(name="line", edges=[(START, narrate, writer)])
    )
    instrument()
    with scripted_rollout(engine) as rollout:
        async for _ in events(line):
            pass

    assert [note.agent for note in rollout.recorder.notes()][-1] == "next"
    assert whose(engine, rollout.secret)[-1] == "policy"
