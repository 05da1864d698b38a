"""What an execution still asks for once nobody waits for it is recorded, reported, and never trained."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from author_crews import QUESTION, add, agent, llm, task
from crewai import Crew

from woodshed.capture import Rollout
from woodshed.testing import Reply, ScriptedEngine, call_tool, in_order, say, scripted_rollout
from woodshed.testing.waiting import eventually
from woodshed_crewai import instrument, trainable

LATE_S = 1.4
"""`max_execution_time` counts whole seconds."""


def crew(engine: ScriptedEngine, *, by: dict[str, Any] | None = None, **settings: Any) -> Crew:
    who = agent(llm(engine.base_url), **{"max_execution_time": 1, "tools": [add], **(by or {})})
    return trainable(Crew(agents=[who], tasks=[task(who, **settings)]))


def noted(rollout: Rollout) -> list[tuple[int, bool, str | None]]:
    """Return attempt, superseded and error of every call."""
    notes = rollout.recorder.notes()
    return [(note.attempt, note.superseded, note.error.kind if note.error else None) for note in notes]


def test_a_late_answer_is_not_trained_and_is_reported(engine: ScriptedEngine, caplog: pytest.LogCaptureFixture) -> None:
    engine.script = in_order(call_tool("add", a=1, b=2), say("late", delay_s=LATE_S))
    built = crew(engine)
    with (
        scripted_rollout(engine) as rollout,
        caplog.at_level(logging.WARNING, "woodshed.crewai"),
        pytest.raises(TimeoutError),
    ):
        built.kickoff(inputs=QUESTION)

    assert noted(rollout) == [(1, False, None), (1, True, "Abandoned")]
    assert "an answer for 'Clerk' came after its execution was given up on" in caplog.text


@pytest.mark.parametrize("is_same_object", [True, False])
@pytest.mark.parametrize("is_async", [False, True])
def test_kicked_off_again_it_is_the_second_attempt(
    engine: ScriptedEngine, is_async: bool, is_same_object: bool
) -> None:
    given_up = threading.Event()
    replies = in_order(call_tool("add", a=1, b=2), say("late"), say("good"))

    def script(request: dict[str, Any]) -> Reply:
        reply = replies(request)
        if "late" in str(reply):
            given_up.wait(LATE_S if not is_async else 20)
        return reply

    async def kick_off_twice() -> Any:
        built = crew(engine)
        kickoff = (lambda one: one.akickoff(inputs=QUESTION)) if is_async else (lambda one: one.kickoff_async(QUESTION))
        with pytest.raises(TimeoutError):
            await kickoff(built)
        given_up.set()
        await eventually(lambda: len(engine.requests) == 2, "the late answer is sent")
        return await kickoff(built if is_same_object else crew(engine))

    engine.script = script
    with scripted_rollout(engine) as rollout:
        assert asyncio.run(kick_off_twice()).raw == "good"

    assert noted(rollout) == [(1, True, None), (1, True, "Abandoned"), (2, False, None)]


def test_what_a_cancelled_kickoff_goes_on_to_ask_is_not_trained(engine: ScriptedEngine) -> None:
    given_up = threading.Event()
    replies = in_order(call_tool("add", a=1, b=2), say("late"), say("good"))

    def script(request: dict[str, Any]) -> Reply:
        reply = replies(request)
        if len(engine.requests) <= 1:
            given_up.wait(20)
        return reply

    async def kick_off_twice() -> Any:
        kickoff = asyncio.create_task(crew(engine, by={"max_execution_time": None}).kickoff_async(QUESTION))
        await eventually(lambda: len(engine.requests) == 1, "the model is asked")
        kickoff.cancel()
        with pytest.raises(asyncio.CancelledError):
            await kickoff
        given_up.set()
        await eventually(lambda: len(engine.requests) == 2, "it goes on to ask")
        return await crew(engine, by={"max_execution_time": None}).kickoff_async(QUESTION)

    engine.script = script
    with scripted_rollout(engine) as rollout:
        assert asyncio.run(kick_off_twice()).raw == "good"

    assert noted(rollout) == [(1, True, "Abandoned"), (1, True, "Abandoned"), (2, False, None)]


def test_a_retry_that_times_out_is_the_second_attempt(engine: ScriptedEngine) -> None:
    engine.script = in_order(say(""), say("late", delay_s=LATE_S))
    with scripted_rollout(engine) as rollout, pytest.raises(TimeoutError):
        crew(engine).kickoff(inputs=QUESTION)

    assert noted(rollout) == [(1, True, None), (2, True, "Abandoned")]


def test_a_guardrails_retry_that_times_out_is_the_second_attempt(engine: ScriptedEngine) -> None:
    engine.script = in_order(say("bad"), call_tool("add", a=1, b=2), say("late", delay_s=LATE_S))
    with scripted_rollout(engine) as rollout, pytest.raises(TimeoutError):
        crew(engine, guardrail=lambda output: (output.raw != "bad", output.raw)).kickoff(inputs=QUESTION)

    assert noted(rollout) == [(1, True, None), (2, False, None), (2, True, "Abandoned")]


def test_an_execution_in_time_is_trained(engine: ScriptedEngine) -> None:
    engine.script = in_order(call_tool("add", a=1, b=2), say("good"))
    with scripted_rollout(engine) as rollout:
        crew(engine, by={"max_execution_time": 60}).kickoff(inputs=QUESTION)

    assert noted(rollout) == [(1, False, None), (1, False, None)]


def test_what_failed_with_other_inputs_is_not_the_same_work(engine: ScriptedEngine) -> None:
    engine.script = in_order(say(""), say("good"))
    built = crew(engine, by={"max_retry_limit": 0, "max_execution_time": None})
    with scripted_rollout(engine) as rollout:
        with pytest.raises(ValueError, match="None or empty"):
            built.kickoff(inputs={"question": "What is 2 + 2?"})
        built.kickoff(inputs=QUESTION)

    assert noted(rollout) == [(1, False, None), (1, False, None)]


def test_an_agent_kicked_off_again_is_the_second_attempt(engine: ScriptedEngine) -> None:
    instrument()
    engine.script = in_order(say(""), say("good"))
    by = agent(llm(engine.base_url))
    with scripted_rollout(engine) as rollout:
        with pytest.raises(ValueError, match="None or empty"):
            by.kickoff("x")
        assert by.kickoff("x").raw == "good"

    assert noted(rollout) == [(1, True, None), (2, False, None)]
