"""One record per tool call the model asked for, with what it was told and the true exception."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from author_agents import AGENTS, add, agent, author_model, broken, quietly
from google.adk.agents.run_config import RunConfig, ToolThreadPoolConfig
from google.adk.apps.app import App, ResumabilityConfig
from google.adk.plugins.reflect_retry_tool_plugin import ReflectAndRetryToolPlugin
from google.adk.tools.function_tool import FunctionTool
from running import QUIET, SSE, ask, runner_of, said

from woodshed.errors import LeakError
from woodshed.testing import Reply, ScriptedEngine, call_tool, call_tools, in_order, say, scripted_rollout
from woodshed.types import ToolCall, ToolRequest
from woodshed_adk import instrument

pytestmark = QUIET

GEMINI = "gemini-2.5-flash"
POOLED = RunConfig(tool_thread_pool_config=ToolThreadPoolConfig(max_workers=2))
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sse": {"run_config": SSE},
    "sync": {"sync": True},
    "pool": {"run_config": POOLED},
}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> dict[str, Any]:
    return RUNS[request.param]


async def recorded(
    engine: ScriptedEngine, built: Any, *replies: Reply, run: dict[str, Any] | None = None
) -> tuple[list[Any], tuple[ToolCall, ...]]:
    """Return the events of one turn in a rollout, and its tool calls."""
    if replies:
        engine.script = in_order(*replies)
    instrument()
    with scripted_rollout(engine) as rollout:
        events = await ask(runner_of(built), "go", **(run or {}))
    return events, engine.trajectory(rollout).tool_calls


def told(call: ToolCall) -> tuple[str, Any, str | None, str | None]:
    return call.name, call.arguments, call.result, call.error.kind if call.error else None


async def adouble(x: int) -> dict[str, int]:
    """Double a number, slowly."""
    return {"doubled": 2 * x}


def clerk_with(*tools: Any, **options: Any) -> Any:
    return agent(GEMINI, "clerk", tools=list(tools), **options)


async def test_a_tool_is_recorded_once_as_asked_and_as_told(engine: ScriptedEngine, run: dict[str, Any]) -> None:
    asked = call_tools(
        ToolRequest(id="c1", name="add", arguments='{"a": 1, "b": 2}'),
        ToolRequest(id="c2", name="adouble", arguments='{"x": 4}'),
    )
    _, tool_calls = await recorded(engine, clerk_with(add, adouble), asked, say("done"), run=run)

    assert [told(call) for call in tool_calls] == [
        ("add", {"a": 1, "b": 2}, '{"result": 3}', None),
        ("adouble", {"x": 4}, '{"doubled": 8}', None),
    ]
    assert [(call.tool_call_id, call.agent) for call in tool_calls] == [("c1", "clerk"), ("c2", "clerk")]
    assert all(0 < call.latency_s < 5 for call in tool_calls)
    sent = [message for message in engine.requests[-1].body["messages"] if message["role"] == "tool"]
    assert [(message["tool_call_id"], message["content"]) for message in sent] == [
        ("c1", '{"result": 3}'),
        ("c2", '{"doubled": 8}'),
    ]


async def test_an_exception_nobody_handles_passes_untouched(engine: ScriptedEngine, run: dict[str, Any]) -> None:
    events, (call,) = await recorded(engine, clerk_with(broken), call_tool("broken", x=4), run=run)

    assert isinstance(events[-1], ZeroDivisionError)
    assert told(call) == ("broken", {"x": 4}, None, "ZeroDivisionError")


async def test_an_exception_a_callback_answers_is_recorded_with_its_own_type(engine: ScriptedEngine) -> None:
    def answer(tool: Any, args: Any, tool_context: Any, error: Exception) -> dict[str, str]:
        return {"sorry": str(error)}

    built = clerk_with(broken, on_tool_error_callback=answer)
    events, (call,) = await recorded(engine, built, call_tool("broken", x=4), say("never mind"))

    assert said(events) == ["never mind"]
    assert told(call) == ("broken", {"x": 4}, '{"sorry": "no 4"}', "ZeroDivisionError")


async def test_the_reflecting_plugin_tells_the_model_and_the_record_keeps_the_exception(engine: ScriptedEngine) -> None:
    app = App(name="app", root_agent=clerk_with(broken, add), plugins=[ReflectAndRetryToolPlugin()])
    replies = (call_tool("broken", x=4), call_tool("add", a=1, b=2), say("three"))
    events, tool_calls = await recorded(engine, app, *replies)

    assert said(events) == ["three"]
    assert [told(call)[::3] for call in tool_calls] == [("broken", "ZeroDivisionError"), ("add", None)]
    assert "no 4" in (tool_calls[0].result or "")
    assert tool_calls[0].error is not None and tool_calls[0].error.message == "no 4"


async def test_callbacks_change_what_the_tool_gets_and_the_model_is_told_not_what_it_asked(
    engine: ScriptedEngine,
) -> None:
    _, (call,) = await recorded(engine, AGENTS["callbacks"](GEMINI))

    assert told(call) == ("add", {"a": 1, "b": 2}, '{"sum": 41}', None)


async def test_missing_arguments_are_recorded_as_the_error_the_model_is_told(engine: ScriptedEngine) -> None:
    _, (call,) = await recorded(engine, clerk_with(add), call_tool("add", a=1), say("oh"))

    assert told(call)[::3] == ("add", "ToolError")
    assert "mandatory input parameters are not present" in (call.result or "")


async def test_an_unknown_tool_is_recorded(engine: ScriptedEngine) -> None:
    _, (call,) = await recorded(engine, AGENTS["unknown_tool"](GEMINI))

    assert told(call)[::3] == ("multiply", "ToolError")
    assert "multiply" in (call.result or "")


async def test_a_tool_that_answers_later_has_no_result(engine: ScriptedEngine) -> None:
    _, (call,) = await recorded(engine, AGENTS["long_running"](GEMINI))

    assert told(call) == ("ticket", {"subject": "x"}, None, None)


async def test_a_tool_that_waits_for_a_persons_word_is_no_error(engine: ScriptedEngine) -> None:
    built = clerk_with(FunctionTool(add, require_confirmation=True))
    app = App(name="app", root_agent=built, resumability_config=quietly(ResumabilityConfig, is_resumable=True))
    _, (call,) = await recorded(engine, app, call_tool("add", a=1, b=2))

    assert told(call)[0::3] == ("add", None)


async def test_delegation_is_recorded_with_what_the_boss_is_told(engine: ScriptedEngine) -> None:
    for name, result in (("agent_tool", "Three, says the helper"), ("single_turn", "Three"), ("task", "three")):
        _, tool_calls = await recorded(engine, AGENTS[name](GEMINI))
        (helper,) = (call for call in tool_calls if call.name == "helper")
        assert (helper.agent, helper.arguments, helper.error) == ("boss", {"request": "sum up"}, None)
        assert result in (helper.result or "")
        sent = [message for message in engine.requests[-1].body["messages"] if message["role"] == "tool"]
        assert [message["content"] for message in sent] == [helper.result]
        assert [call.agent for call in tool_calls if call.name == "add"] == (
            [] if name == "single_turn" else ["helper"]
        )


async def test_a_tool_names_its_agent_also_where_no_node_of_the_graph_does(engine: ScriptedEngine) -> None:
    _, (call,) = await recorded(engine, AGENTS["sequential"](GEMINI))

    assert (call.name, call.agent) == ("add", "first")


async def test_a_transfer_is_a_tool_call_of_the_agent_that_left(engine: ScriptedEngine) -> None:
    _, (call,) = await recorded(engine, AGENTS["transfer"](GEMINI))

    assert told(call)[:2] == ("transfer_to_agent", {"agent_name": "specialist"})
    assert (call.agent, call.error) == ("front", None)


async def test_a_result_that_is_no_json_is_recorded_as_the_model_reads_it(engine: ScriptedEngine) -> None:
    def odd() -> dict[str, bytes]:
        """Answer with bytes."""
        return {"raw": b"\x00\xff"}

    _, (call,) = await recorded(engine, clerk_with(odd), call_tool("odd"), say("done"))

    sent = [message for message in engine.requests[-1].body["messages"] if message["role"] == "tool"]
    assert told(call) == ("odd", {}, sent[0]["content"], None)


async def test_outside_a_rollout_no_tool_is_recorded(engine: ScriptedEngine) -> None:
    built = instrument(AGENTS["with_tool"](author_model(engine.base_url)))
    with scripted_rollout(engine) as rollout:
        pass

    assert said(await ask(runner_of(built), "go")) == ["It is three"]
    assert rollout.recorder.tool_calls() == ()


def bypass(question: str) -> str:
    """Ask a model past the framework, and make the best of it."""
    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="author", max_retries=0)
    try:
        return str(client.chat.completions.create(model="m", messages=[{"role": "user", "content": question}]))
    except Exception as error:
        return f"the tool failed: {error}"


async def test_an_error_of_ours_that_a_tool_swallows_fails_the_rollout(engine: ScriptedEngine) -> None:
    engine.script = in_order(call_tool("bypass", question="who?"), say("done"))
    instrument()
    with scripted_rollout(engine) as rollout:
        events = await ask(runner_of(clerk_with(bypass)), "go")

    assert "done" in str(said(events))
    assert isinstance(rollout.error, LeakError)
