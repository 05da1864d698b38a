"""Only the attempt whose answer was used is trained: all that CrewAI throws away is marked superseded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from author_crews import QUESTION, Answer, add, agent, llm, task
from crewai import Crew

from woodshed.testing import Reply, ScriptedEngine, call_tool, fail, in_order, say, scripted_rollout
from woodshed.types import Trajectory
from woodshed_crewai import instrument, trainable


def attempts(trajectory: Trajectory) -> list[tuple[str | None, int, bool]]:
    """Return answer, attempt and superseded of every call."""
    return [
        (
            call.tokens.completions[0].message.content if call.tokens.completions else None,
            call.note.attempt,
            call.note.superseded,
        )
        for call in trajectory.calls
        if call.note is not None
    ]


def crew(engine: ScriptedEngine, *, by: dict[str, Any] | None = None, **settings: Any) -> Crew:
    who = agent(llm(engine.base_url), **(by or {}))
    return trainable(Crew(agents=[who], tasks=[task(who, **settings)]))


def good(output: Any):  # type: ignore[no-untyped-def]  # CrewAI checks the annotation, and knows none that is a string
    return ("good" in output.raw, output.raw)


def run(built: Crew, is_async: bool = False) -> Any:
    return asyncio.run(built.akickoff(inputs=QUESTION)) if is_async else built.kickoff(inputs=QUESTION)


@pytest.mark.parametrize("is_async", [False, True])
def test_answers_that_a_guardrail_rejects_are_superseded(engine: ScriptedEngine, is_async: bool) -> None:
    engine.script = in_order(call_tool("add", a=1, b=2), say("bad"), say("worse"), say("good"))
    built = crew(engine, by={"tools": [add]}, guardrail=good)
    with scripted_rollout(engine) as rollout:
        assert run(built, is_async).raw == "good"

    assert attempts(engine.trajectory(rollout)) == [
        (None, 1, True),
        ("bad", 1, True),
        ("worse", 2, True),
        ("good", 3, False),
    ]


def test_the_rejection_by_a_guardrails_own_model_is_not_superseded(engine: ScriptedEngine) -> None:
    verdicts = [{"valid": False, "feedback": "no"}, {"valid": True, "feedback": None}]

    def script(request: dict[str, Any]) -> Reply:
        if request.get("response_format"):
            return say(json.dumps(verdicts.pop(0)))
        return say("again" if "no" in str(request["messages"][-1]["content"]).split() else "first")

    engine.script = script
    built = crew(engine, guardrail="It must be good.")
    with scripted_rollout(engine) as rollout:
        run(built)

    notes = rollout.recorder.notes()
    assert [(note.agent, note.superseded) for note in notes] == [
        ("Clerk", True),
        ("Guardrail Agent", False),
        ("Clerk", False),
        ("Guardrail Agent", False),
    ]


def test_the_guardrail_of_an_agent_without_a_crew_supersedes_too(engine: ScriptedEngine) -> None:
    instrument()
    engine.script = in_order(say("bad"), say("good"))
    by = agent(llm(engine.base_url), guardrail=good)
    with scripted_rollout(engine) as rollout:
        by.kickoff("x")

    assert attempts(engine.trajectory(rollout)) == [("bad", 1, True), ("good", 2, False)]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_execution_that_fails_and_is_repeated_is_superseded(engine: ScriptedEngine, is_async: bool) -> None:
    engine.script = in_order(call_tool("add", a=1, b=2), say(""), say("good"))
    built = crew(engine, by={"tools": [add]})
    with scripted_rollout(engine) as rollout:
        assert run(built, is_async).raw == "good"

    assert attempts(engine.trajectory(rollout)) == [(None, 1, True), ("", 1, True), ("good", 2, False)]


def test_an_execution_that_fails_for_good_keeps_its_last_attempt(engine: ScriptedEngine) -> None:
    engine.script = lambda request: fail(500)
    built = crew(engine, by={"max_retry_limit": 1})
    with scripted_rollout(engine) as rollout, pytest.raises(openai.InternalServerError):
        run(built)

    assert attempts(engine.trajectory(rollout)) == [(None, 1, True), (None, 2, False)]


def test_the_work_of_a_coworker_is_thrown_away_with_the_attempt_it_is_part_of(engine: ScriptedEngine) -> None:
    ask = call_tool("ask_question_to_coworker", question="?", context="-", coworker="Calculator")
    engine.script = in_order(ask, say("three"), say("bad"), say("good"))
    boss, worker = agent(llm(engine.base_url), "Boss", allow_delegation=True), agent(llm(engine.base_url), "Calculator")
    built = trainable(Crew(agents=[boss, worker], tasks=[task(boss, guardrail=good)]))
    with scripted_rollout(engine) as rollout:
        run(built)

    notes = rollout.recorder.notes()
    assert [(note.agent, note.superseded) for note in notes] == [
        ("Boss", True),
        ("Calculator", True),
        ("Boss", True),
        ("Boss", False),
    ]


def test_conversions_that_do_not_fit_are_superseded(engine: ScriptedEngine) -> None:
    engine.script = in_order(say("three"), say('{"wrong": 1}'), say('{"number": 3}'))
    built = crew(engine, by={"tools": [add]}, output_pydantic=Answer)
    with scripted_rollout(engine) as rollout:
        assert run(built).pydantic == Answer(number=3)

    assert [superseded for _, _, superseded in attempts(engine.trajectory(rollout))] == [False, True, False]


def test_repeated_requests_of_the_instructor_library_are_attempts(engine: ScriptedEngine) -> None:
    engine.script = in_order(say("three"), call_tool("Answer", wrong=1), call_tool("Answer", number=3))
    built = crew(engine, by={"tools": [add]}, output_json=Answer)
    with scripted_rollout(engine) as rollout:
        assert run(built).json_dict == {"number": 3}

    assert [(n.attempt, n.superseded) for n in rollout.recorder.notes()] == [(1, False), (1, True), (2, False)]


def test_the_sdks_own_retries_are_one_call(engine: ScriptedEngine) -> None:
    engine.script = in_order(fail(429, retry_after_s=0.01), fail(500), say("good"))
    instrument()
    with scripted_rollout(engine) as rollout:
        assert llm(engine.base_url, max_retries=2).call("x") == "good"

    trajectory = engine.trajectory(rollout)
    assert attempts(trajectory) == [("good", 1, False)]
    assert trajectory.calls[0].tokens.retries == 2


def test_a_throttled_call_that_crewai_repeats_is_another_attempt(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry = pytest.importorskip("crewai.llms.retry", reason="this CrewAI does not repeat throttled calls")
    monkeypatch.setattr(retry, "_LLM_RATE_LIMIT_INITIAL_DELAY_SECONDS", 0.01)
    engine.script = in_order(fail(429), say("good"))
    instrument()
    with scripted_rollout(engine) as rollout:
        assert llm(engine.base_url).call("x") == "good"

    first, second = rollout.recorder.notes()
    assert (first.attempt, first.error is not None, second.attempt, second.superseded) == (1, True, 2, False)


def test_an_answer_that_crewai_asks_for_again_in_another_form_is_superseded(engine: ScriptedEngine) -> None:
    """Without a parsed object in the answer it asks once more, without the output model."""
    engine.script = in_order(call_tool("add", a=1, b=2), say("three"))
    instrument()
    with scripted_rollout(engine) as rollout:
        llm(engine.base_url).call("x", response_model=Answer)

    trajectory = engine.trajectory(rollout)
    assert attempts(trajectory) == [(None, 1, True), ("three", 1, False)]
    assert len({call.tokens.call_id for call in trajectory.calls}) == 2


async def test_a_cancelled_call_is_noted_as_aborted(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say("late", delay_s=5)
    instrument()
    with scripted_rollout(engine) as rollout, pytest.raises(TimeoutError):
        await asyncio.wait_for(llm(engine.base_url).acall("x"), 0.3)

    (note,) = rollout.recorder.notes()
    assert note.error is not None
    assert (note.error.kind, note.superseded) == ("Aborted", True)
