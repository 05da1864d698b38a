"""An answer the framework threw away is kept and marked, and only that one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest
from author_agents import AGENTS, QUESTION, agent, quietly
from google.adk.agents.context import Context
from google.adk.apps.app import App
from google.adk.plugins._reflect_retry_model_plugin import ReflectAndRetryModelPlugin
from google.adk.workflow import START, FunctionNode, RetryConfig, Workflow
from google.genai import types
from running import QUIET, SSE, ask, runner_of, said, session_of

from woodshed.testing import ScriptedEngine, call_tools, fail, in_order, say, scripted_rollout
from woodshed.types import ToolRequest, Trajectory
from woodshed_adk import instrument

pytestmark = QUIET

GEMINI = "gemini-2.5-flash"
RETRY = RetryConfig(max_attempts=3, initial_delay=0.01, jitter=0)
OLDER = metadata.version("google-adk").startswith(("2.10.", "2.11."))


def attempts(trajectory: Trajectory) -> list[tuple[str | None, str | None, int, bool]]:
    """Return (agent, answer, attempt, superseded) of every call."""
    return [
        (
            call.note.agent,
            call.tokens.completions[0].message.content if call.tokens.completions else None,
            call.note.attempt,
            call.note.superseded,
        )
        for call in trajectory.calls
        if call.note is not None
    ]


def failing(times: int) -> Callable[[], None]:
    """Return a function that fails so many times."""
    left = [times]

    def fails() -> None:
        if left[0]:
            left[0] -= 1
            raise ValueError("again")

    return fails


async def practised(engine: ScriptedEngine, built: Any) -> list[tuple[str | None, str | None, int, bool]]:
    instrument()
    with scripted_rollout(engine) as rollout:
        await ask(runner_of(built), "hi")
    return attempts(engine.trajectory(rollout))


def work(name: str, function: Any, **options: Any) -> FunctionNode:
    return FunctionNode(func=function, name=name, rerun_on_resume=True, **options)


def in_graph(*nodes: Any, **options: Any) -> Workflow:
    return Workflow(name="graph", edges=[(START, *nodes)], **options)


async def test_a_nodes_retry_supersedes_the_failed_attempts_answers(engine: ScriptedEngine) -> None:
    first, check = agent(GEMINI, "first"), failing(2)

    async def outer(ctx: Context, node_input: Any) -> str:
        answer = await ctx.run_node(first, "ask")
        check()
        return str(answer)

    assert await practised(engine, in_graph(work("outer", outer, retry_config=RETRY))) == [
        ("first", "You said: ask", 1, True),
        ("first", "You said: ask", 2, True),
        ("first", "You said: ask", 3, False),
    ]


async def test_a_node_that_gives_up_keeps_its_last_attempt(engine: ScriptedEngine) -> None:
    first, check = agent(GEMINI, "first"), failing(9)

    async def outer(ctx: Context, node_input: Any) -> None:
        await ctx.run_node(first, "ask")
        check()

    calls = await practised(engine, in_graph(work("outer", outer, retry_config=RETRY)))
    assert [superseded for *_, superseded in calls] == [True, True, False]


async def test_a_retry_without_a_further_call_still_supersedes(engine: ScriptedEngine) -> None:
    first, check = agent(GEMINI, "first"), failing(1)

    async def outer(ctx: Context, node_input: Any) -> str:
        if ctx.attempt_count > 1:
            return "from a fallback"
        answer = await ctx.run_node(first, "ask")
        check()
        return str(answer)

    assert await practised(engine, in_graph(work("outer", outer, retry_config=RETRY))) == [
        ("first", "You said: ask", 1, True)
    ]


async def test_an_agents_own_retry_supersedes_what_it_asked_for_in_vain(engine: ScriptedEngine) -> None:
    check = failing(1)

    def flaky(x: int) -> int:
        """Fail once."""
        check()
        return x

    first = agent(GEMINI, "first", 'flaky {"x": 1} | done | done', tools=[flaky], retry_config=RETRY)
    calls = await practised(engine, in_graph(first))

    assert calls[0] == ("first", None, 1, True)
    assert {(attempt, superseded) for _, _, attempt, superseded in calls[1:]} == {(2, False)}


async def test_a_workflow_that_is_tried_again_keeps_the_answers_it_replays(engine: ScriptedEngine) -> None:
    check = failing(1)

    def flaky(node_input: Any) -> str:
        check()
        return "ok"

    inner = Workflow(
        name="inner", edges=[(START, agent(GEMINI, "before"), flaky, agent(GEMINI, "after"))], retry_config=RETRY
    )
    assert await practised(engine, in_graph(inner)) == [
        ("before", "You said: hi", 1, False),
        ("after", "You said: ok", 2, False),
    ]


@pytest.mark.skipif(OLDER, reason="google-adk before 2.12 does not try a node again whose inner node failed")
async def test_a_node_tried_again_for_its_inner_nodes_failure_keeps_the_answers_it_replays(
    engine: ScriptedEngine,
) -> None:
    before, after, check = agent(GEMINI, "before"), agent(GEMINI, "after"), failing(1)

    def flaky(node_input: Any) -> str:
        check()
        return "ok"

    async def outer(ctx: Context, node_input: Any) -> str:
        return " ".join([str(await ctx.run_node(step, "x")) for step in (before, work("flaky", flaky), after)])

    assert await practised(engine, in_graph(work("outer", outer, retry_config=RETRY))) == [
        ("before", "You said: x", 1, False),
        ("after", "You said: x", 2, False),
    ]


@pytest.mark.parametrize("arguments", ['{"a": 1, "b": ', "[1, 2]", '"text"'])
async def test_an_answer_the_reflecting_plugin_throws_away_is_superseded(
    engine: ScriptedEngine, arguments: str
) -> None:
    engine.script = in_order(call_tools(ToolRequest(id="c1", name="add", arguments=arguments)), say("Three"))
    app = App(name="app", root_agent=AGENTS["with_tool"](GEMINI), plugins=[ReflectAndRetryModelPlugin()])
    calls = await practised(engine, app)

    assert [(text, superseded) for _, text, _, superseded in calls] == [(None, True), ("Three", False)]


async def test_a_tool_that_the_model_is_to_try_again_supersedes_nothing(engine: ScriptedEngine) -> None:
    calls = await practised(engine, AGENTS["plugins"](GEMINI))

    assert [(attempt, superseded) for _, _, attempt, superseded in calls] == [(1, False)] * 3


async def test_two_calls_with_the_same_prompt_are_two_calls(engine: ScriptedEngine) -> None:
    twins = in_graph(work("same", lambda node_input: "x"), agent(GEMINI, "twin"))
    instrument()
    with scripted_rollout(engine) as rollout:
        for session in "12":
            await ask(runner_of(twins), "hi", session_id=session)

    assert attempts(engine.trajectory(rollout)) == [("twin", "You said: x", 1, False)] * 2


@pytest.mark.parametrize("streams", [False, True])
async def test_the_sdks_own_retries_are_one_call(engine: ScriptedEngine, streams: bool) -> None:
    engine.script = in_order(fail(429, retry_after_s=0.01), fail(500), say("at last"))
    instrument()
    with scripted_rollout(engine) as rollout:
        await ask(runner_of(agent(GEMINI, "first")), "hi", run_config=SSE if streams else None)

    trajectory = engine.trajectory(rollout)
    assert attempts(trajectory) == [("first", "at last", 1, False)]
    assert trajectory.calls[0].tokens.retries == 2


async def test_an_error_that_a_callback_answers_is_noted(engine: ScriptedEngine) -> None:
    engine.script = lambda request: fail(400)

    def instead(callback_context: Any, llm_request: Any, error: Exception) -> Any:
        from google.adk.models.llm_response import LlmResponse

        return LlmResponse(content=types.Content(role="model", parts=[types.Part(text="sorry")]))

    instrument()
    with scripted_rollout(engine) as rollout:
        events = await ask(runner_of(agent(GEMINI, "first", on_model_error_callback=instead)), "hi")

    assert said(events) == ["sorry"]
    (note,) = rollout.recorder.notes()
    assert note.error is not None
    assert (note.error.kind, note.superseded) == ("BadRequestError", False)


async def test_a_stream_left_before_its_end_is_noted_as_aborted(engine: ScriptedEngine) -> None:
    async def dawdle(callback_context: Any, llm_response: Any) -> None:
        assert llm_response.partial
        await asyncio.sleep(30)

    instrument()
    slow = agent(GEMINI, "first", "a long story", after_model_callback=dawdle)
    with scripted_rollout(engine) as rollout, pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(runner_of(slow), "hi", run_config=SSE), 1)

    (note,) = rollout.recorder.notes()
    assert note.error is not None
    assert (note.error.kind, note.superseded) == ("Aborted", True)


async def test_a_cancelled_call_is_noted_as_aborted(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say("late", delay_s=5)
    instrument()
    with scripted_rollout(engine) as rollout, pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(runner_of(agent(GEMINI, "first")), "hi"), 0.5)

    (note,) = rollout.recorder.notes()
    assert note.error is not None
    assert note.error.kind == "Aborted"


async def test_a_resumed_invocation_supersedes_nothing(engine: ScriptedEngine) -> None:
    """The paused agent goes on from its events; what it asked for before the pause is still in use."""
    from google.adk.apps.app import ResumabilityConfig

    root = AGENTS["long_running"](GEMINI)
    app = App(name="app", root_agent=root, resumability_config=quietly(ResumabilityConfig, is_resumable=True))
    instrument()
    runner = runner_of(app)
    with scripted_rollout(engine) as rollout:
        paused = await ask(runner, QUESTION)
        asked = paused[-1].get_function_calls() or paused[0].get_function_calls()
        done = types.FunctionResponse(id=asked[0].id, name="ticket", response={"status": "open"})
        resumed = [
            event
            async for event in runner.run_async(
                user_id="u",
                session_id="s",
                invocation_id=paused[0].invocation_id,
                new_message=types.Content(role="user", parts=[types.Part(function_response=done)]),
            )
        ]

    assert said(resumed) == ["Opened"]
    assert [(n.attempt, n.superseded) for n in rollout.recorder.notes()] == [(1, False)] * 2
    assert len((await session_of(runner)).events) > 2
