"""Inside a rollout a crew gives, asks and raises exactly what it does undecorated on the same replies.

That nothing changes outside a rollout is row 21 of the contract.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from author_crews import CALLS, CREWS, QUESTION, agent, llm, one_agent, task, text_llm
from crewai import Crew

from woodshed.testing import Reply, ScriptedEngine, call_tools, fail, in_order, say, scripted_rollout
from woodshed.types import ToolRequest
from woodshed_crewai import trainable

_IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|call_[0-9a-f]{12}")


def run(crew: Crew, is_async: bool) -> Any:
    """Return all a crew gives: its output, its tasks' outputs and messages, its usage; or its exception."""
    try:
        done: Any = asyncio.run(crew.akickoff(inputs=QUESTION)) if is_async else crew.kickoff(inputs=QUESTION)
    except Exception as error:
        return type(error), _IDS.sub("ID", str(error))
    tasks = [(t.name, t.raw, t.agent, t.pydantic, _IDS.sub("ID", repr(t.messages))) for t in done.tasks_output]
    return done.raw, done.pydantic, tasks, done.token_usage


def bodies(engine: ScriptedEngine, skip: int = 0) -> list[str]:
    """Return the requests in any order: parallel tasks differ in order from run to run."""
    return sorted(repr(_as_the_author(seen.body)) for seen in engine.requests[skip:])


def _as_the_author(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request without what differs on purpose: `strict`, and the stop word CrewAI cuts at."""
    kept = {name: value for name, value in body.items() if name not in ("stop", "include_stop_str_in_output")}
    for tool in kept.get("tools") or ():
        tool["function"].pop("strict", None)
    return kept


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("name", CREWS)
def test_a_crew_in_a_rollout_is_the_undecorated_crew(engine: ScriptedEngine, name: str, is_async: bool) -> None:
    undecorated = run(CREWS[name](engine.base_url), is_async)
    own_calls = len(engine.requests)
    crew = CREWS[name](engine.base_url)
    assert trainable(crew) is crew

    with scripted_rollout(engine) as rollout:
        practised = run(crew, is_async)

    assert practised == undecorated
    assert {seen.rollout_id for seen in engine.requests[own_calls:]} == {rollout.rollout_id}
    asked = bodies(engine, own_calls)
    assert own_calls == len(asked) == CALLS[name]
    assert asked == sorted(repr(_as_the_author(seen.body)) for seen in engine.requests[:own_calls])
    calls = engine.trajectory(rollout).calls
    assert all(call.note is not None and call.tokens.completions and not call.note.superseded for call in calls)


REPLIES: dict[str, tuple[Reply, ...]] = {
    "an unknown tool": (call_tools(ToolRequest(id="a", name="subtract", arguments="{}")), say("no")),
    "arguments that are no JSON": (call_tools(ToolRequest(id="a", name="add", arguments="{a: 1")), say("no")),
    "arguments that do not fit": (call_tools(ToolRequest(id="a", name="add", arguments='{"a": "x"}')), say("no")),
    "two tools at once": (
        call_tools(*(ToolRequest(id=i, name="add", arguments='{"a": 1, "b": 2}') for i in "ab")),
        say("3 and 3"),
    ),
    "an empty answer": (say(""), say("3")),
    "an engine that fails": (fail(500),) * 3,
}


@pytest.mark.parametrize("name", REPLIES)
def test_what_goes_wrong_goes_wrong_the_same_way(engine: ScriptedEngine, name: str) -> None:
    engine.script = in_order(*REPLIES[name])
    undecorated = run(one_agent(engine.base_url), is_async=False)
    own_calls = len(engine.requests)
    engine.script = in_order(*REPLIES[name])
    crew = trainable(one_agent(engine.base_url))
    with scripted_rollout(engine):
        assert run(crew, is_async=False) == undecorated

    assert bodies(engine, own_calls) == sorted(repr(_as_the_author(s.body)) for s in engine.requests[:own_calls])


def test_the_authors_sampling_settings_are_sent(engine: ScriptedEngine) -> None:
    settings = {"temperature": 0.3, "seed": 7, "top_p": 0.9, "max_tokens": 50, "frequency_penalty": 0.1}
    by = agent(llm(engine.base_url, **settings))
    with scripted_rollout(engine):
        run(trainable(Crew(agents=[by], tasks=[task(by)])), is_async=False)

    assert settings.items() <= engine.requests[0].body.items()


def test_tools_are_sent_without_strict_so_that_their_calls_are_trained(engine: ScriptedEngine) -> None:
    crew = one_agent(engine.base_url)
    crew.kickoff(inputs=QUESTION)
    with scripted_rollout(engine):
        trainable(crew).kickoff(inputs=QUESTION)

    sent = [seen.body["tools"][0]["function"].get("strict") for seen in engine.requests]
    assert sent == [True, True, None, None]


def test_what_only_speaks_to_the_provider_is_not_sent(engine: ScriptedEngine) -> None:
    crew = trainable(one_agent(engine.base_url))
    crew.agents[0].llm = llm(engine.base_url, store=True, user="me", extra_headers={"x-mine": "1"})
    with scripted_rollout(engine):
        crew.kickoff(inputs=QUESTION)

    assert {"store", "user"} & engine.requests[0].body.keys() == set()
    assert engine.requests[0].headers["x-mine"] == "1"


def test_a_model_that_writes_its_own_observation_stops_before_it(engine: ScriptedEngine) -> None:
    """CrewAI cuts the text there; the policy must not be trained on tokens that nobody read."""
    written = '  Thought: add\nAction: add\nAction Input: {"a": 1, "b": 2}\nObservation: 99\nFinal Answer: 99'

    def script(request: dict[str, Any]) -> Reply:
        if request["messages"][-1]["content"].startswith("\nCurrent Task"):
            text = written
        else:
            text = "Thought: known\nFinal Answer: 3"
        for word in request.get("stop") or ():
            head, stop, _ = text.partition(word)
            text = head + (stop if request.get("include_stop_str_in_output") else "")
        return say(text)

    def crew() -> Crew:
        by = agent(text_llm(engine.base_url), tools=[one_agent(engine.base_url).agents[0].tools[0]])
        return Crew(agents=[by], tasks=[task(by)])

    engine.script = script
    undecorated = run(crew(), is_async=False)
    with scripted_rollout(engine) as rollout:
        practised = run(trainable(crew()), is_async=False)

    assert undecorated[:3] == practised[:3]
    first = engine.trajectory(rollout).calls[0].tokens.completions[0].message.content
    assert first is not None
    assert first.endswith("\nObservation:")
