"""One record per tool call the model asked for, with what it was told and the true exception."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from author_crews import QUESTION, add, agent, llm, task, text_llm
from crewai import Crew
from crewai.mcp import MCPServerStdio
from crewai.tools import BaseTool, tool

from woodshed.errors import LeakError
from woodshed.testing import ScriptedEngine, call_tool, call_tools, in_order, say, scripted_rollout
from woodshed.types import ToolCall, ToolRequest, Trajectory
from woodshed_crewai import instrument, trainable


@tool("broken")
def broken(x: int) -> str:
    """Break."""
    raise KeyError("shelf")


@tool("slow")
async def slow(x: int) -> str:
    """Double a number, slowly."""
    await asyncio.sleep(0)
    return str(2 * x)


class Counted(BaseTool):
    name: str = "Counted Tool"
    description: str = "Count calls."
    ran: int = 0

    def _run(self, x: int = 0) -> str:
        self.ran += 1
        return f"{x} counted"


def play(engine: ScriptedEngine, tools: list[Any], *replies: Any, model: Any = llm, **settings: Any) -> Trajectory:
    """Run a crew of one agent with these tools on these replies."""
    engine.script = in_order(*replies)
    by = agent(model(engine.base_url), tools=tools)
    crew = trainable(Crew(agents=[by], tasks=[task(by)], **settings))
    with scripted_rollout(engine) as rollout:
        crew.kickoff(inputs=QUESTION)
    return engine.trajectory(rollout)


def told(trajectory: Trajectory) -> list[str | None]:
    """Return what the model was told of its tool calls, from its last request."""
    return [m.content for m in trajectory.calls[-1].tokens.messages if m.role == "tool"]


def only(trajectory: Trajectory) -> ToolCall:
    (call,) = trajectory.tool_calls
    return call


def raw(name: str, arguments: str) -> Any:
    return call_tools(ToolRequest(id="call_raw", name=name, arguments=arguments))


def as_text(name: str, arguments: str) -> Any:
    return say(f"Thought: do it\nAction: {name}\nAction Input: {arguments}")


FINAL = say("Thought: known\nFinal Answer: done")


@pytest.mark.parametrize(("which", "expected"), [(add, "3"), (slow, "4")])
def test_a_native_call_is_one_record(engine: ScriptedEngine, which: Any, expected: str) -> None:
    arguments = {"a": 1, "b": 2} if which is add else {"x": 2}
    trajectory = play(engine, [which], call_tool(which.name, id="c1", **arguments), say("done"))

    call = only(trajectory)
    assert (call.tool_call_id, call.name, call.arguments, call.result) == ("c1", which.name, arguments, expected)
    assert (call.error, call.agent, told(trajectory)) == (None, "Clerk", [expected])
    assert call.latency_s > 0


@pytest.mark.parametrize(("which", "expected"), [(add, "3"), (slow, "4")])
def test_a_call_as_text_is_one_record(engine: ScriptedEngine, which: Any, expected: str) -> None:
    arguments = '{"a": 1, "b": 2}' if which is add else '{"x": 2}'
    trajectory = play(engine, [which], as_text(which.name, arguments), FINAL, model=text_llm)

    call = only(trajectory)
    assert (call.name, call.result, call.error, call.agent) == (which.name, expected, None, "Clerk")
    assert call.arguments == ({"a": 1, "b": 2} if which is add else {"x": 2})


def test_two_calls_at_once_are_two_records(engine: ScriptedEngine) -> None:
    both = call_tools(*(ToolRequest(id=i, name="add", arguments=f'{{"a": {i}, "b": 1}}') for i in "12"))
    trajectory = play(engine, [add], both, say("done"))

    assert sorted((c.tool_call_id, c.result) for c in trajectory.tool_calls) == [("1", "2"), ("2", "3")]


@pytest.mark.parametrize("model", [llm, text_llm])
def test_a_tool_that_raises_keeps_its_typed_error_and_what_the_model_was_told(
    engine: ScriptedEngine, model: Any
) -> None:
    first = call_tool("broken", x=1) if model is llm else as_text("broken", '{"x": 1}')
    trajectory = play(engine, [broken], first, FINAL if model is text_llm else say("done"), model=model)

    call = only(trajectory)
    assert call.error is not None
    assert (call.error.kind, call.error.message) == ("KeyError", "'shelf'")
    assert "shelf" in str(call.result)
    assert call.result is not None
    assert call.result in "".join(m.content or "" for m in trajectory.calls[-1].tokens.messages)


@pytest.mark.parametrize("model", [llm, text_llm])
def test_an_unknown_tool_is_recorded_as_an_error(engine: ScriptedEngine, model: Any) -> None:
    first = call_tool("subtract", x=1) if model is llm else as_text("subtract", '{"x": 1}')
    trajectory = play(engine, [add], first, FINAL if model is text_llm else say("done"), model=model)

    call = only(trajectory)
    assert call.name == "subtract"
    assert call.error is not None
    assert call.error.kind == "ToolError"


@pytest.mark.parametrize("arguments", ["", "{", "null", "[]", '"x"', "1", "{x: 1", "x=1"])
@pytest.mark.parametrize("stream", [False, True])
def test_malformed_arguments_never_run_a_tool(engine: ScriptedEngine, arguments: str, stream: bool) -> None:
    counted = Counted()
    trajectory = play(
        engine,
        [counted],
        raw("counted_tool", arguments),
        say("done"),
        model=lambda url: llm(url, stream=stream),
    )

    call = only(trajectory)
    assert counted.ran == 0
    assert call.error is not None
    assert "Failed to parse tool arguments as JSON" in str(call.result)
    assert told(trajectory) == [call.result]


@pytest.mark.parametrize("arguments", ["{", "null", "[]", "x"])
def test_malformed_arguments_in_text_never_run_a_tool(engine: ScriptedEngine, arguments: str) -> None:
    counted = Counted()
    trajectory = play(engine, [counted], as_text("counted_tool", arguments), FINAL, model=text_llm)

    call = only(trajectory)
    assert counted.ran == 0
    assert call.error is not None
    assert call.arguments == arguments
    assert str(call.result) in "".join(m.content or "" for m in trajectory.calls[-1].tokens.messages)


def test_no_arguments_are_arguments(engine: ScriptedEngine) -> None:
    counted = Counted()
    trajectory = play(engine, [counted], raw("counted_tool", "{}"), say("done"))

    assert (counted.ran, only(trajectory).arguments, only(trajectory).error) == (1, {}, None)


def test_a_cached_result_is_a_record_without_a_run(engine: ScriptedEngine) -> None:
    counted = Counted()
    calls = [call_tool("counted_tool", x=1), call_tool("counted_tool", x=1)]
    trajectory = play(engine, [counted], *calls, say("done"), cache=True)

    assert [(c.result, c.error) for c in trajectory.tool_calls] == [("1 counted", None)] * 2
    assert counted.ran in (1, 2)  # whether a crew's cache reaches native calls depends on CrewAI's version


def test_a_tool_called_by_hand_is_recorded(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine) as rollout:
        add.run(a=1, b=2)

    assert [(c.name, c.arguments, c.result) for c in rollout.recorder.tool_calls()] == [("add", {"a": 1, "b": 2}, "3")]


def test_a_tool_that_the_model_call_runs_itself_is_recorded(engine: ScriptedEngine) -> None:
    instrument()
    engine.script = in_order(call_tool("add", id="c1", a=1, b=2))
    schema = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    with scripted_rollout(engine) as rollout:
        answer = llm(engine.base_url).call("x", tools=[schema], available_functions={"add": lambda a, b: str(a + b)})

    (call,) = rollout.recorder.tool_calls()
    assert (answer, call.tool_call_id, call.arguments, call.result) == ("3", "c1", {"a": 1, "b": 2}, "3")


@pytest.mark.parametrize("arguments", ["{", "null", ""])
def test_malformed_arguments_never_run_a_tool_inside_the_model_call(engine: ScriptedEngine, arguments: str) -> None:
    instrument()
    engine.script = in_order(call_tools(ToolRequest(id="c1", name="go", arguments=arguments), content="well"))
    schema = {"type": "function", "function": {"name": "go", "parameters": {"type": "object", "properties": {}}}}
    ran: list[Any] = []
    with scripted_rollout(engine) as rollout:
        llm(engine.base_url).call("x", tools=[schema], available_functions={"go": lambda **kw: ran.append(kw) or "no"})

    (call,) = rollout.recorder.tool_calls()
    assert ran == []
    assert call.error is not None


_SERVER = """
from mcp.server.fastmcp import FastMCP
server = FastMCP("shop")
@server.tool()
def stock(item: str) -> str:
    "How many there are."
    return f"7 of {item}"
server.run()
"""


def test_a_tool_of_an_mcp_server_is_recorded(engine: ScriptedEngine, tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(_SERVER)
    by = agent(llm(engine.base_url), mcps=[MCPServerStdio(command=sys.executable, args=[str(script)])])

    def reply(request: dict[str, Any]) -> Any:
        if request["messages"][-1]["role"] == "tool":
            return say("seven")
        return call_tool(request["tools"][0]["function"]["name"], item="lamps")

    engine.script = reply
    crew = trainable(Crew(agents=[by], tasks=[task(by)]))
    with scripted_rollout(engine) as rollout:
        crew.kickoff(inputs=QUESTION)

    call = only(engine.trajectory(rollout))
    assert call.name == engine.requests[0].body["tools"][0]["function"]["name"]
    assert (call.arguments, call.result, call.error) == ({"item": "lamps"}, "7 of lamps", None)


@tool("bypass")
def bypass(question: str) -> str:
    """Ask a model past the framework."""
    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="author", max_retries=0)
    return str(client.chat.completions.create(model="m", messages=[{"role": "user", "content": question}]))


def test_an_error_of_ours_that_crewai_tells_the_model_fails_the_rollout(engine: ScriptedEngine) -> None:
    engine.script = in_order(call_tool("bypass", question="who?"), say("done"))
    by = agent(llm(engine.base_url), tools=[bypass])
    crew = trainable(Crew(agents=[by], tasks=[task(by)]))
    with scripted_rollout(engine) as rollout:
        assert crew.kickoff(inputs=QUESTION).raw == "done"

    assert isinstance(rollout.error, LeakError)
