"""One record per tool call the model asked for, with what it was told and the true exception."""

from __future__ import annotations

import asyncio
import inspect
from typing import Annotated, Any

import langchain.agents.factory
import openai
import pytest
from author_graphs import ARGUMENTS, agent_as_tool, chat
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langchain_core.messages import ToolMessage
from langchain_core.tools import InjectedToolCallId, ToolException, tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from woodshed.errors import LeakError
from woodshed.testing import Reply, ScriptedEngine, call_tool, call_tools, in_order, say, scripted_rollout
from woodshed.types import ToolCall, ToolRequest
from woodshed_langgraph import wrap

ASK = {"messages": [("user", "go")]}


@tool
def double(x: int) -> int:
    """Double a number."""
    return 2 * x


@tool
async def adouble(x: int) -> int:
    """Double a number, slowly."""
    return 2 * x


@tool
def broken(x: int) -> int:
    """Always fails."""
    raise ZeroDivisionError(f"no {x}")


@tool
def polite(x: int) -> int:
    """Fails in a way it handles itself."""
    raise ToolException("please do not")


polite.handle_tool_error = True


@tool
def note(text: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
    """Answer with a command."""
    return Command(update={"messages": [ToolMessage(f"noted {text}", tool_call_id=tool_call_id)]})


TOOLS = [double, adouble, broken, polite, note]


def tool_graph(model: Any, **options: Any) -> Any:
    bound = model.bind_tools(TOOLS)

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [bound.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode(TOOLS, **options))
    graph.add_edge(START, "think")
    graph.add_edge("think", "tools")
    return graph.compile()


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Any:
    return (
        (lambda graph: graph.invoke(ASK))
        if request.param == "sync"
        else (lambda graph: asyncio.run(graph.ainvoke(ASK)))
    )


def recorded(engine: ScriptedEngine, run: Any, graph: Any, *replies: Reply) -> tuple[ToolCall, ...]:
    engine.script = in_order(*replies)
    wrap(graph)
    with scripted_rollout(engine) as rollout:
        run(graph)
    return engine.trajectory(rollout).tool_calls


def told(call: ToolCall) -> tuple[str, Any, str | None, str | None]:
    return call.name, call.arguments, call.result, call.error.kind if call.error else None


def test_a_tool_is_recorded_once_with_its_clean_arguments(engine: ScriptedEngine, run: Any) -> None:
    name = "double" if isinstance(run(_Probe()), dict) else "adouble"
    (call,) = recorded(engine, run, tool_graph(chat(engine.base_url)), call_tool(name, id="c1", x=4))

    assert told(call) == (name, {"x": 4}, "8", None)
    assert (call.tool_call_id, call.agent) == ("c1", "tools")
    assert 0 < call.latency_s < 5


class _Probe:
    """Tells a sync runner from an async one."""

    def invoke(self, _: Any) -> dict[str, Any]:
        return {}

    async def ainvoke(self, _: Any) -> list[Any]:
        return []


def test_a_tool_that_raises_is_recorded_with_its_own_exception(engine: ScriptedEngine, run: Any) -> None:
    graph = tool_graph(chat(engine.base_url), handle_tool_errors=True)
    (call,) = recorded(engine, run, graph, call_tool("broken", x=4))

    assert told(call)[1::2] == ({"x": 4}, "ZeroDivisionError")
    assert call.error is not None and call.error.message == "no 4"
    assert "no 4" in (call.result or "")


def test_an_exception_nobody_handles_passes_untouched(engine: ScriptedEngine, run: Any) -> None:
    graph = wrap(tool_graph(chat(engine.base_url), handle_tool_errors=False))
    engine.script = in_order(call_tool("broken", x=4))
    with scripted_rollout(engine) as rollout, pytest.raises(ZeroDivisionError, match="no 4"):
        run(graph)

    (call,) = engine.trajectory(rollout).tool_calls
    assert told(call) == ("broken", {"x": 4}, None, "ZeroDivisionError")


def test_a_tool_that_handles_its_own_error_tells_it(engine: ScriptedEngine, run: Any) -> None:
    (call,) = recorded(engine, run, tool_graph(chat(engine.base_url)), call_tool("polite", x=1))

    assert told(call) == ("polite", {"x": 1}, "please do not", "ToolError")


def test_bad_arguments_are_recorded_as_the_model_wrote_them(engine: ScriptedEngine, run: Any) -> None:
    (call,) = recorded(engine, run, tool_graph(chat(engine.base_url)), call_tool("double", x="four"))

    assert told(call)[:2] == ("double", {"x": "four"})
    assert call.error is not None and call.error.kind == "ValidationError"
    assert "Error invoking tool" in (call.result or "")


def test_an_unknown_tool_is_recorded(engine: ScriptedEngine, run: Any) -> None:
    (call,) = recorded(engine, run, tool_graph(chat(engine.base_url)), call_tool("treble", x=1))

    assert told(call)[::3] == ("treble", "ToolError")
    assert "not a valid tool" in (call.result or "")


def test_parallel_tool_calls_are_recorded_each(engine: ScriptedEngine, run: Any) -> None:
    requests = [ToolRequest(id=f"c{x}", name="double", arguments=f'{{"x": {x}}}') for x in range(4)]
    calls = recorded(engine, lambda g: g.invoke(ASK), tool_graph(chat(engine.base_url)), call_tools(*requests))

    assert sorted((c.tool_call_id, c.result) for c in calls) == [("c0", "0"), ("c1", "2"), ("c2", "4"), ("c3", "6")]


def test_a_command_is_recorded_by_the_message_it_carries(engine: ScriptedEngine, run: Any) -> None:
    (call,) = recorded(engine, run, tool_graph(chat(engine.base_url)), call_tool("note", text="this"))

    assert told(call) == ("note", {"text": "this"}, "noted this", None)


def test_a_middleware_that_retries_a_tool_makes_one_record_of_the_last_try(engine: ScriptedEngine) -> None:
    tries = []

    @tool
    def flaky(x: int) -> int:
        """Fail once."""
        tries.append(x)
        if len(tries) == 1:
            raise OSError("once")
        return x

    @wrap_tool_call
    def again(request: Any, handler: Any) -> Any:
        try:
            return handler(request)
        except OSError:
            return handler(request)

    graph = create_agent(chat(engine.base_url), [flaky], middleware=[again])
    (call,) = recorded(engine, lambda g: g.invoke(ASK), graph, call_tool("flaky", x=3), say("done"))

    assert told(call) == ("flaky", {"x": 3}, "3", None)
    assert len(tries) == 2


def test_a_tool_called_directly_by_a_node_is_recorded(engine: ScriptedEngine) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("node", lambda state: {"messages": [str(double.invoke({"x": 5}))]})
    graph.add_edge(START, "node")
    (call,) = recorded(engine, lambda g: g.invoke(ASK), graph.compile())

    assert (told(call), call.tool_call_id, call.agent) == (("double", {"x": 5}, "10", None), None, "node")


def test_the_calls_of_an_agent_used_as_a_tool_name_their_parent(engine: ScriptedEngine, run: Any) -> None:
    graph = wrap(agent_as_tool(chat(engine.base_url)))
    with scripted_rollout(engine) as rollout:
        run(graph)

    trajectory = engine.trajectory(rollout)
    boss, helper, last = (call.note for call in trajectory.calls)
    assert boss is not None and helper is not None and last is not None
    # langchain tells an agent's name from 1.2.10 on; before, its place in the graph is all there is.
    named = "lc_agent_name" in inspect.getsource(langchain.agents.factory)
    names = ["boss", "helper", "boss"] if named else ["model", "tools/model", "model"]
    assert [n.agent for n in (boss, helper, last)] == names
    assert [n.parent_call_id for n in (boss, helper, last)] == [None, boss.call_id, None]
    assert [told(t) for t in trajectory.tool_calls] == [
        ("ask_helper", ARGUMENTS["ask_helper"], "You said: and you?", None)
    ]


def test_a_streamed_request_for_a_tool_is_the_parent_too(engine: ScriptedEngine) -> None:
    graph = wrap(agent_as_tool(chat(engine.base_url)))
    with scripted_rollout(engine) as rollout:
        list(graph.stream(ASK, stream_mode="messages"))

    boss, helper, _ = (call.note for call in engine.trajectory(rollout).calls)
    assert boss is not None and helper is not None
    assert helper.parent_call_id == boss.call_id


def test_outside_a_rollout_no_tool_is_recorded(engine: ScriptedEngine) -> None:
    wrap(tool_graph(chat(engine.base_url)))
    with scripted_rollout(engine) as rollout:
        pass

    assert double.invoke({"x": 1}) == 2
    assert rollout.recorder.tool_calls() == ()


def bypass(question: str) -> str:
    """Ask a model past the framework."""
    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="author", max_retries=0)
    return str(client.chat.completions.create(model="m", messages=[{"role": "user", "content": question}]))


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_an_error_of_ours_that_a_tool_node_swallows_fails_the_rollout(engine: ScriptedEngine, way: str) -> None:
    engine.script = in_order(call_tool("bypass", question="who?"), say("done"))
    model = chat(engine.base_url).bind_tools([tool(bypass)])
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_node("tools", ToolNode([tool(bypass)], handle_tool_errors=True))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    builder.add_edge("tools", "model")
    graph = wrap(builder.compile())
    with scripted_rollout(engine) as rollout:
        result = await graph.ainvoke(ASK) if way == "ainvoke" else graph.invoke(ASK)

    assert "LeakError" in str(result["messages"][2].content)
    assert isinstance(rollout.error, LeakError)
