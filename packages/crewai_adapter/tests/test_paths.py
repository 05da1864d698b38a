"""Every way to run a crew: all its calls are recorded, with the right agent, task and parent."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from author_crews import (
    CALLS,
    CREWS,
    QUESTION,
    Answer,
    CountingFlow,
    add,
    agent,
    delegating,
    hierarchical,
    llm,
    one_agent,
    task,
    text_llm,
)
from crewai import Agent, Crew
from crewai.tools import tool
from pydantic import BaseModel

from woodshed.capture import Rollout
from woodshed.testing import Reply, ScriptedEngine, call_tool, fail, in_order, say, scripted_rollout
from woodshed_crewai import instrument, trainable


def kickoff(crew: Crew) -> Any:
    return crew.kickoff(inputs=QUESTION)


def kickoff_async(crew: Crew) -> Any:
    return asyncio.run(crew.kickoff_async(inputs=QUESTION))


def akickoff(crew: Crew) -> Any:
    return asyncio.run(crew.akickoff(inputs=QUESTION))


def kickoff_for_each(crew: Crew) -> Any:
    return crew.kickoff_for_each(inputs=[QUESTION])[0]


def kickoff_for_each_async(crew: Crew) -> Any:
    return asyncio.run(crew.kickoff_for_each_async(inputs=[QUESTION]))[0]


def akickoff_for_each(crew: Crew) -> Any:
    return asyncio.run(crew.akickoff_for_each(inputs=[QUESTION]))[0]


WAYS = (kickoff, kickoff_async, akickoff, kickoff_for_each, kickoff_for_each_async, akickoff_for_each)


def where(rollout: Rollout) -> list[tuple[str | None, str | None]]:
    return [(note.agent, note.task) for note in rollout.recorder.notes()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["one_agent", "in_text", "delegating"])
def test_every_way_to_run_a_crew_is_recorded(engine: ScriptedEngine, name: str, way: Any) -> None:
    crew = trainable(CREWS[name](engine.base_url))
    with scripted_rollout(engine) as rollout:
        assert way(crew).raw == "3 for What is 1 + 2?"

    calls = engine.trajectory(rollout).calls
    assert len(calls) == len(engine.requests) == CALLS[name]
    assert all(call.note and call.note.agent and call.note.task and call.tokens.completions for call in calls)


@pytest.mark.parametrize("build", [delegating, hierarchical])
def test_a_coworkers_calls_have_the_call_that_asked_for_it_as_parent(engine: ScriptedEngine, build: Any) -> None:
    crew = trainable(build(engine.base_url))
    with scripted_rollout(engine) as rollout:
        crew.kickoff(inputs=QUESTION)

    first, *inner, last = rollout.recorder.notes()
    assert [note.agent for note in inner] == ["Calculator"] * 2
    assert [note.parent_call_id for note in inner] == [first.call_id] * 2
    assert (first.parent_call_id, last.parent_call_id, first.agent) == (None, None, last.agent)


def test_a_coworker_asked_in_text_has_its_parent_too(engine: ScriptedEngine) -> None:
    url = engine.base_url
    ask = 'Action: ask_question_to_coworker\nAction Input: {"question": "?", "context": "-", "coworker": "Calculator"}'
    engine.script = in_order(say(f"Thought: ask\n{ask}"), say("3"), say("Thought: known\nFinal Answer: 3"))
    boss, worker = agent(text_llm(url), "Boss", allow_delegation=True), agent(llm(url), "Calculator")
    crew = trainable(Crew(agents=[boss, worker], tasks=[task(boss)]))
    with scripted_rollout(engine) as rollout:
        crew.kickoff(inputs=QUESTION)

    first, inner, last = rollout.recorder.notes()
    assert (inner.agent, inner.parent_call_id, last.parent_call_id) == ("Calculator", first.call_id, None)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_crew_that_streams_is_recorded_while_it_is_read(engine: ScriptedEngine, is_async: bool) -> None:
    crew = trainable(one_agent(engine.base_url, stream=True))

    async def read() -> str:
        streaming = await crew.kickoff_async(inputs=QUESTION)
        return "".join([chunk.content async for chunk in streaming])

    with scripted_rollout(engine) as rollout:
        text = asyncio.run(read()) if is_async else "".join(c.content for c in crew.kickoff(inputs=QUESTION))

    assert text.endswith("3 for What is 1 + 2?")
    assert where(rollout) == [("Clerk", "answer")] * 2
    assert all(call.tokens.completions for call in engine.trajectory(rollout).calls)


def test_a_stream_read_after_its_rollout_does_not_reach_the_authors_provider(engine: ScriptedEngine) -> None:
    crew = trainable(one_agent(engine.base_url, stream=True))
    with scripted_rollout(engine) as rollout:
        streaming = crew.kickoff(inputs=QUESTION)

    with pytest.raises(openai.ConflictError, match="sealed"):
        list(streaming)
    assert {seen.headers["authorization"] for seen in engine.requests} == {f"Bearer {rollout.secret}"}
    assert engine.trajectory(rollout).calls[0].tokens.completions == ()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_flow_with_a_crew_and_the_bare_model_is_recorded(engine: ScriptedEngine, is_async: bool) -> None:
    flow = trainable(CountingFlow)(suppress_flow_events=True)
    inputs = {"url": engine.base_url}
    with scripted_rollout(engine) as rollout:
        asyncio.run(flow.kickoff_async(inputs=inputs)) if is_async else flow.kickoff(inputs=inputs)

    assert where(rollout) == [("Clerk", "answer"), ("Clerk", "answer"), (None, None)]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_agent_without_a_crew_is_recorded(engine: ScriptedEngine, is_async: bool) -> None:
    instrument()
    by = agent(llm(engine.base_url), tools=[add])
    with scripted_rollout(engine) as rollout:
        result: Any = asyncio.run(by.kickoff_async("What is it?")) if is_async else by.kickoff("What is it?")

    assert result.raw == "3 for What is it?"
    assert where(rollout) == [("Clerk", None)] * 2


async def test_a_model_called_asynchronously_is_recorded(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine) as rollout:
        assert await llm(engine.base_url).acall("What is it?") == "3 for What is it?"
        assert await llm(engine.base_url, stream=True).acall("What is it?") == "3 for What is it?"

    assert [call.note is not None for call in engine.trajectory(rollout).calls] == [True, True]


def test_a_crew_planned_by_another_model_is_recorded(engine: ScriptedEngine) -> None:
    plan = '{"list_of_plans_per_task": [{"task_number": 1, "task": "answer", "plan": "count"}]}'
    engine.script = in_order(say(plan), say("3"))
    by = agent(llm(engine.base_url))
    crew = trainable(Crew(agents=[by], tasks=[task(by)], planning=True, planning_llm=llm(engine.base_url)))
    with scripted_rollout(engine) as rollout:
        crew.kickoff(inputs=QUESTION)

    assert [note.agent for note in rollout.recorder.notes()] == ["Task Execution Planner", "Clerk"]
    assert "count" in str(engine.requests[1].body["messages"])


def test_a_conversion_to_json_by_the_instructor_library_is_recorded(engine: ScriptedEngine) -> None:
    def script(request: dict[str, Any]) -> Reply:
        return call_tool("Answer", number=3) if isinstance(request.get("tool_choice"), dict) else say("it is three")

    engine.script = script
    by = agent(llm(engine.base_url), tools=[add])
    crew = trainable(Crew(agents=[by], tasks=[task(by, output_json=Answer)]))
    with scripted_rollout(engine) as rollout:
        assert crew.kickoff(inputs=QUESTION).json_dict == {"number": 3}

    calls = engine.trajectory(rollout).calls
    assert where(rollout) == [("Clerk", "answer")] * 2
    assert [call.note is not None for call in calls] == [True, True]


def test_an_answer_that_is_converted_to_a_model_is_recorded(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say('{"number": 3}' if request.get("response_format") else "it is three")
    by = agent(llm(engine.base_url), tools=[add])
    crew = trainable(Crew(agents=[by], tasks=[task(by, output_pydantic=Answer)]))
    with scripted_rollout(engine) as rollout:
        result = crew.kickoff(inputs=QUESTION)

    assert isinstance(result.pydantic, BaseModel)
    assert where(rollout) == [("Clerk", "answer")] * 2


def test_an_error_of_the_engine_is_noted_and_raised_as_ever(engine: ScriptedEngine) -> None:
    engine.script = lambda request: fail(400)
    crew = trainable(one_agent(engine.base_url))
    with scripted_rollout(engine) as rollout, pytest.raises(openai.BadRequestError):
        crew.kickoff(inputs=QUESTION)

    assert {note.error.kind for note in rollout.recorder.notes() if note.error} == {"BadRequestError"}
    assert all(note.error for note in rollout.recorder.notes())


def test_a_model_of_the_responses_api_speaks_chat_inside_a_rollout(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine) as rollout:
        assert llm(engine.base_url, api="responses").call("What is it?") == "3 for What is it?"

    assert len(engine.trajectory(rollout).calls) == 1


def test_a_call_inside_a_tool_has_that_tools_call_as_parent(engine: ScriptedEngine) -> None:
    inner = llm(engine.base_url)

    @tool("look")
    def look(where: str) -> str:
        """Look something up."""
        return str(inner.call(f"What is {where}?"))

    engine.script = in_order(call_tool("look", where="there"), say("a lamp"), say("It is a lamp."))
    by: Agent = agent(llm(engine.base_url), tools=[look])
    with scripted_rollout(engine) as rollout:
        trainable(Crew(agents=[by], tasks=[task(by)])).kickoff(inputs=QUESTION)

    first, middle, last = rollout.recorder.notes()
    assert [middle.parent_call_id, last.parent_call_id] == [first.call_id, None]
