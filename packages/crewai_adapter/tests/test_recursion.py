"""Work that starts itself inside itself is no further attempt: the outer answer was used."""

from __future__ import annotations

import warnings
from typing import Any

from author_crews import QUESTION, agent, llm, task
from crewai import Crew
from crewai.flow.flow import Flow, start
from crewai.lite_agent import LiteAgent
from crewai.tools import tool

from woodshed.testing import ScriptedEngine, call_tool, in_order, say, scripted_rollout
from woodshed_crewai import instrument


def lite(model: Any, **settings: Any) -> LiteAgent:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return LiteAgent(role="Clerk", goal="Answer.", backstory="You count.", llm=model, **settings)


def asking(start_itself: Any) -> Any:
    """Return a tool that starts what it is a tool of."""

    @tool("again")
    def again(question: str) -> str:
        """Ask the same again."""
        return str(start_itself(question))

    return again


def attempts(rollout: Any) -> list[tuple[int, bool]]:
    return [(note.attempt, note.superseded) for note in rollout.recorder.notes()]


CALLS = (call_tool("again", question="Deeper?"), say("inner"), say("outer"))
IN_TEXT = (
    say('Thought: ask\nAction: again\nAction Input: {"question": "Deeper?"}'),
    say("Thought: I know\nFinal Answer: inner"),
    say("Thought: I know\nFinal Answer: outer"),
)


def test_a_light_agent_whose_tool_starts_it(engine: ScriptedEngine) -> None:
    instrument()
    engine.script = in_order(*IN_TEXT)
    clerk = lite(llm(engine.base_url), tools=[asking(lambda question: clerk.kickoff(question).raw)])
    with scripted_rollout(engine) as rollout:
        clerk.kickoff("x")

    assert attempts(rollout) == [(1, False)] * 3


def test_the_guardrail_of_a_light_agent_still_supersedes(engine: ScriptedEngine) -> None:
    instrument()
    engine.script = in_order(*(say(f"Thought: I know\nFinal Answer: {said}") for said in ("bad", "good")))
    clerk = lite(llm(engine.base_url), guardrail=lambda output: (output.raw == "good", output.raw))
    with scripted_rollout(engine) as rollout:
        clerk.kickoff("x")

    assert attempts(rollout) == [(1, True), (2, False)]


def test_an_agent_whose_tool_starts_it(engine: ScriptedEngine) -> None:
    instrument()
    engine.script = in_order(*CALLS)
    clerk = agent(llm(engine.base_url), tools=[asking(lambda question: clerk.kickoff(question).raw)])
    with scripted_rollout(engine) as rollout:
        assert clerk.kickoff("x").raw == "outer"

    assert attempts(rollout) == [(1, False)] * 3


def test_an_agent_whose_tool_gives_it_the_same_task(engine: ScriptedEngine) -> None:
    instrument()
    engine.script = in_order(*CALLS)

    def once_more(question: str) -> Any:
        by = agent(llm(engine.base_url))
        by.execute_task(work)
        return "done"

    clerk = agent(llm(engine.base_url), tools=[asking(once_more)])
    work = task(clerk, "What is it?")
    with scripted_rollout(engine) as rollout:
        work.execute_sync()

    assert attempts(rollout) == [(1, False)] * 3


def test_a_coworker_of_the_same_role(engine: ScriptedEngine) -> None:
    instrument()
    ask = call_tool("ask_question_to_coworker", question="?", context="-", coworker="Clerk")
    engine.script = in_order(ask, say("inner"), say("outer"))
    boss, clerk = agent(llm(engine.base_url), allow_delegation=True), agent(llm(engine.base_url))
    with scripted_rollout(engine) as rollout:
        Crew(agents=[boss, clerk], tasks=[task(boss)]).kickoff(inputs=QUESTION)

    assert attempts(rollout) == [(1, False)] * 3


def test_a_crew_whose_tool_starts_it(engine: ScriptedEngine) -> None:
    instrument()
    engine.script = in_order(*CALLS)

    def build(**settings: Any) -> Crew:
        by = agent(llm(engine.base_url), **settings)
        return Crew(agents=[by], tasks=[task(by)])

    crew = build(tools=[asking(lambda question: crew.copy().kickoff(inputs=QUESTION).raw)])
    with scripted_rollout(engine) as rollout:
        crew.kickoff(inputs=QUESTION)

    assert attempts(rollout) == [(1, False)] * 3


class Diver(Flow[Any]):
    @start()
    def dive(self) -> str:
        model = llm(self.state["url"])
        said = str(model.call("x"))
        if not self.state["deep"]:
            said += str(Diver().kickoff(inputs={"url": self.state["url"], "deep": True}))
        return said


def test_a_flow_that_starts_itself(engine: ScriptedEngine) -> None:
    instrument()
    engine.script = in_order(say("outer "), say("inner"))
    with scripted_rollout(engine) as rollout:
        assert Diver().kickoff(inputs={"url": engine.base_url, "deep": False}) == "outer inner"

    assert attempts(rollout) == [(1, False)] * 2


def test_what_failed_in_another_tool_call_is_not_tried_again(engine: ScriptedEngine) -> None:
    """The model has read of the failure, and asks anew."""
    instrument()
    engine.script = in_order(
        call_tool("again", question="?"),
        say(""),
        call_tool("again", question="?"),
        say("in"),
        say("o"),
    )
    inner = agent(llm(engine.base_url))
    clerk = agent(llm(engine.base_url), tools=[asking(lambda _: inner.kickoff("the same").raw)])
    with scripted_rollout(engine) as rollout:
        clerk.kickoff("x")

    assert attempts(rollout) == [(1, False)] * 5
