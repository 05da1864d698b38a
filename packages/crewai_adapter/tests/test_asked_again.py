"""Where CrewAI asks again until it can use an answer, the one it used is trained and the others are superseded."""

from __future__ import annotations

import json
from typing import Any

from author_crews import Answer, add, agent, llm, task, text_llm
from crewai import Crew
from crewai.agent.planning_config import PlanningConfig
from crewai.flow.flow import Flow
from crewai.tools import tool

from woodshed.testing import ScriptedEngine, call_tool, in_order, say, scripted_rollout
from woodshed_crewai import instrument


def attempts(rollout: Any) -> list[tuple[int, bool]]:
    return [(note.attempt, note.superseded) for note in rollout.recorder.notes()]


def crew(by: Any, **settings: Any) -> Crew:
    instrument()
    return Crew(agents=[by], tasks=[task(by, "What is it?", **settings)])


def holds(word: str) -> Any:
    return lambda output: (word in output.raw, output.raw)


def plan(ready: bool) -> Any:
    return call_tool("create_reasoning_plan", plan="Count.", steps=[], ready=ready)


def test_plans_that_were_not_ready_are_superseded(engine: ScriptedEngine) -> None:
    engine.script = in_order(plan(False), plan(False), plan(True), say("three"))
    with scripted_rollout(engine) as rollout:
        crew(agent(llm(engine.base_url), planning_config=PlanningConfig(max_attempts=3))).kickoff()

    assert attempts(rollout) == [(1, True), (2, True), (3, False), (1, False)]


def test_the_last_plan_is_kept_where_none_was_ready(engine: ScriptedEngine) -> None:
    engine.script = in_order(plan(False), plan(False), say("three"))
    with scripted_rollout(engine) as rollout:
        crew(agent(llm(engine.base_url), planning_config=PlanningConfig(max_attempts=2))).kickoff()

    assert attempts(rollout) == [(1, True), (2, False), (1, False)]


def test_a_plan_that_cannot_be_read_and_is_asked_for_as_text_is_superseded(engine: ScriptedEngine) -> None:
    engine.script = in_order(
        call_tool("create_reasoning_plan", nothing=1), say("READY: I am ready to execute the task."), say("three")
    )
    with scripted_rollout(engine) as rollout:
        crew(agent(llm(engine.base_url), planning_config=PlanningConfig())).kickoff()

    kept = [superseded for _, superseded in attempts(rollout)]
    assert kept[-1] is False
    assert kept[:-1].count(False) == 1


def test_a_conversion_that_a_guardrails_own_answer_replaces_is_superseded(engine: ScriptedEngine) -> None:
    """What each guardrail lets through is converted."""
    engine.script = in_order(say("one"), say('{"number": 2}'), say('{"number": 3}'))
    built = crew(
        agent(llm(engine.base_url), tools=[add]),
        output_pydantic=Answer,
        guardrails=[lambda output: (True, "two"), lambda output: (True, "three")],
    )
    with scripted_rollout(engine) as rollout:
        assert built.kickoff().pydantic == Answer(number=3)

    assert attempts(rollout) == [(1, False), (1, True), (2, False)]


def test_the_conversion_of_a_rejected_answer_is_superseded_with_it(engine: ScriptedEngine) -> None:
    engine.script = in_order(
        say("bad"), say("worse"), say('{"number": 2}'), say("good"), say('{"number": 3}'), say('{"number": 3}')
    )
    built = crew(agent(llm(engine.base_url), tools=[add]), output_pydantic=Answer, guardrail=holds("good"))
    with scripted_rollout(engine) as rollout:
        assert built.kickoff().pydantic == Answer(number=3)

    assert attempts(rollout) == [(1, True), (2, True), (2, True), (3, False), (3, True), (3, False)]


def test_readings_of_a_tool_written_as_text_are_attempts(engine: ScriptedEngine) -> None:
    engine.script = in_order(
        say("Thought: add\nAction: add\nAction Input: one and two"),
        say("no schema"),
        say(json.dumps({"tool_name": "add", "arguments": {"a": 1, "b": 2}})),
        say("Thought: I now know\nFinal Answer: 3"),
    )
    by = agent(text_llm(engine.base_url), tools=[add], function_calling_llm=text_llm(engine.base_url))
    with scripted_rollout(engine) as rollout:
        assert crew(by).kickoff().raw == "3"

    assert attempts(rollout) == [(1, False), (1, True), (2, False), (1, False)]


def test_a_tools_result_that_is_the_answer_keeps_the_call_that_asked_for_it(engine: ScriptedEngine) -> None:
    @tool("total", result_as_answer=True)
    def total(a: int) -> str:
        """Add it up."""
        return f"total {a}"

    engine.script = in_order(call_tool("total", a=3))
    with scripted_rollout(engine) as rollout:
        assert crew(agent(llm(engine.base_url), tools=[total])).kickoff().raw == "total 3"

    assert attempts(rollout) == [(1, False)]


def test_several_guardrails_each_supersede_what_they_reject(engine: ScriptedEngine) -> None:
    engine.script = in_order(say("long bad"), say("short bad"), say("short good"))
    built = crew(
        agent(llm(engine.base_url)),
        guardrails=[
            lambda output: ("short" in output.raw, output.raw),
            lambda output: ("good" in output.raw, output.raw),
        ],
    )
    with scripted_rollout(engine) as rollout:
        assert built.kickoff().raw == "short good"

    assert attempts(rollout) == [(1, True), (2, True), (3, False)]


def test_feedback_that_is_classified_again_as_text_is_superseded(
    engine: ScriptedEngine,
) -> None:
    engine.script = in_order(call_tool("x"), say("approved"), say("approved"))
    instrument()
    model = llm(engine.base_url)
    with scripted_rollout(engine) as rollout:
        assert Flow()._collapse_to_outcome("Fine.", ["approved", "rejected"], model) == "approved"

    assert [superseded for _, superseded in attempts(rollout)][-1] is False
    assert [superseded for _, superseded in attempts(rollout)].count(False) == 1
