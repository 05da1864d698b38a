"""An answer the framework threw away is kept and marked, and only that one."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from attempts import ASK, TWICE, attempts, one_node
from author_graphs import add, chat
from langchain.agents import create_agent
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from woodshed.testing import ScriptedEngine, call_tool, fail, in_order, say, scripted_rollout
from woodshed_langgraph import wrap


def picky(model: Any) -> Any:
    def node(state: MessagesState) -> dict[str, Any]:
        first = model.invoke(state["messages"])
        second = model.invoke([*state["messages"], first])
        if second.content != "good":
            raise ValueError("not good")
        return {"messages": [second]}

    return node


def test_a_nodes_retry_supersedes_the_failed_attempts_answers(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(*(say(text) for text in ("a", "bad", "b", "worse", "c", "good")))
    graph = wrap(one_node(picky(chat(engine.base_url)), retry_policy=TWICE).compile())
    with scripted_rollout(engine) as rollout:
        run(graph)

    assert attempts(engine.trajectory(rollout)) == [
        ("a", 1, True), ("bad", 1, True), ("b", 2, True), ("worse", 2, True), ("c", 3, False), ("good", 3, False),
    ]  # fmt: skip


def test_a_node_that_gives_up_keeps_its_last_attempt(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(*(say(text) for text in ("a", "bad", "b", "bad", "c", "bad")))
    graph = wrap(one_node(picky(chat(engine.base_url)), retry_policy=TWICE).compile())
    with scripted_rollout(engine) as rollout, pytest.raises(ValueError, match="not good"):
        run(graph)

    assert [superseded for _, _, superseded in attempts(engine.trajectory(rollout))] == [True] * 4 + [False] * 2


def test_a_retry_without_a_further_call_still_supersedes(engine: ScriptedEngine, run: Any) -> None:
    model, tries = chat(engine.base_url), []

    def node(state: MessagesState) -> dict[str, Any]:
        tries.append(1)
        if len(tries) == 1:
            model.invoke(state["messages"])
            raise ValueError("again")
        return {"messages": ["from a fallback"]}

    graph = wrap(one_node(node, retry_policy=TWICE).compile())
    with scripted_rollout(engine) as rollout:
        run(graph)

    assert attempts(engine.trajectory(rollout)) == [("You said: hi", 1, True)]


def test_two_calls_with_the_same_prompt_are_two_calls(engine: ScriptedEngine, run: Any) -> None:
    model = chat(engine.base_url)
    graph = wrap(one_node(lambda s: {"messages": [model.invoke("x"), model.invoke("x")]}).compile())
    with scripted_rollout(engine) as rollout:
        run(graph)

    assert attempts(engine.trajectory(rollout)) == [("You said: x", 1, False)] * 2


def test_with_retry_supersedes_answers_its_parser_refused(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(say("not json"), say('{"a": 1}'), say("after"))
    model = chat(engine.base_url)
    parsed = (model | JsonOutputParser()).with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    graph = wrap(one_node(lambda s: {"messages": [str(parsed.invoke("x")), model.invoke("y")]}).compile())
    with scripted_rollout(engine) as rollout:
        run(graph)

    assert attempts(engine.trajectory(rollout)) == [("not json", 1, True), ('{"a": 1}', 2, False), ("after", 1, False)]


async def test_with_retry_async_supersedes_too(engine: ScriptedEngine) -> None:
    engine.script = in_order(say("not json"), say('{"a": 1}'))
    parsed = (chat(engine.base_url) | JsonOutputParser()).with_retry(
        stop_after_attempt=2, wait_exponential_jitter=False
    )
    wrap(one_node(lambda s: {}).compile())
    with scripted_rollout(engine) as rollout:
        assert await parsed.ainvoke("x") == {"a": 1}

    assert attempts(engine.trajectory(rollout)) == [("not json", 1, True), ('{"a": 1}', 2, False)]


def falling_back(model: Any) -> Any:
    """Return a chain whose second runnable answers where the first one's parser fails; each holds such a chain."""
    first = model | JsonOutputParser()
    inner = first.with_fallbacks([model | StrOutputParser()])
    return (inner | JsonOutputParser()).with_fallbacks([model | StrOutputParser()])


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_fallback_supersedes_the_answers_its_parser_refused(engine: ScriptedEngine, mode: str) -> None:
    engine.script = in_order(*(say(text) for text in ("no", "still no", "last", "after")))
    model = chat(engine.base_url)

    def node(state: MessagesState) -> Any:
        return {"messages": [falling_back(model).invoke("x"), model.invoke("y")]}

    async def anode(state: MessagesState) -> Any:
        return {"messages": [await falling_back(model).ainvoke("x"), await model.ainvoke("y")]}

    graph = wrap(one_node(node if mode == "sync" else anode).compile())
    with scripted_rollout(engine) as rollout:
        asyncio.run(graph.ainvoke(ASK)) if mode == "async" else graph.invoke(ASK)

    assert [(text, superseded) for text, _, superseded in attempts(engine.trajectory(rollout))] == [
        ("no", True), ("still no", True), ("last", False), ("after", False),
    ]  # fmt: skip


def test_a_retried_node_supersedes_the_calls_of_its_sub_graph(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(*(say(text) for text in ("first", "second", "third")))
    model, tries = chat(engine.base_url), []
    inner = one_node(lambda state: {"messages": [model.invoke(state["messages"])]}).compile()

    def outer(state: MessagesState) -> dict[str, Any]:
        answer = inner.invoke(state)["messages"][-1]
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("again")
        return {"messages": [answer]}

    graph = wrap(one_node(outer, retry_policy=TWICE).compile())
    with scripted_rollout(engine) as rollout:
        run(graph)

    assert attempts(engine.trajectory(rollout)) == [("first", 1, True), ("second", 2, True), ("third", 3, False)]


def test_a_resumed_node_supersedes_what_it_asked_before_the_interrupt(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(*(say(text) for text in ("draft", "draft again", "final")))
    model = chat(engine.base_url)

    def node(state: MessagesState) -> dict[str, Any]:
        draft = model.invoke(state["messages"])
        verdict = interrupt("good?")
        return {"messages": [draft, model.invoke(verdict)]}

    graph = wrap(one_node(node).compile(checkpointer=InMemorySaver()))
    config = {"configurable": {"thread_id": "1"}}
    with scripted_rollout(engine) as rollout:
        run(graph, ASK, config)
        run(graph, Command(resume="yes"), config)

    assert attempts(engine.trajectory(rollout)) == [
        ("draft", 1, True),
        ("draft again", 2, False),
        ("final", 2, False),
    ]


def test_an_interrupt_in_a_tool_keeps_the_answer_that_asked_for_it(engine: ScriptedEngine, run: Any) -> None:
    """Also where the agent is a node of another graph: it continues from its checkpoint, the outer node does not."""

    @tool
    def delete(path: str) -> str:
        """Delete a file."""
        return f"{path}: {interrupt('sure?')}"

    engine.script = in_order(call_tool("delete", path="x"), say("deleted"))
    outer = StateGraph(MessagesState)
    outer.add_node("agent", create_agent(chat(engine.base_url), [delete]))
    outer.add_edge(START, "agent")
    graph = wrap(outer.compile(checkpointer=InMemorySaver()))
    config = {"configurable": {"thread_id": "1"}}
    with scripted_rollout(engine) as rollout:
        run(graph, ASK, config)
        run(graph, Command(resume="yes"), config)

    trajectory = engine.trajectory(rollout)
    assert [(attempt, superseded) for _, attempt, superseded in attempts(trajectory)] == [(1, False), (1, False)]
    assert [(t.result, t.error) for t in trajectory.tool_calls] == [(None, None), ("x: yes", None)]


def test_two_threads_of_one_checkpointed_graph_are_not_attempts(engine: ScriptedEngine, run: Any) -> None:
    graph = wrap(create_agent(chat(engine.base_url), [add], checkpointer=InMemorySaver()))
    with scripted_rollout(engine) as rollout:
        for thread in "12":
            run(graph, ASK, {"configurable": {"thread_id": thread}})

    assert [(n.attempt, n.superseded) for n in rollout.recorder.notes()] == [(1, False)] * 4


def test_the_sdks_own_retries_are_one_call(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(fail(429, retry_after_s=0.01), fail(500), say("at last"))
    model = chat(engine.base_url).model_copy(update={"max_retries": 2})
    graph = wrap(one_node(lambda state: {"messages": [model.invoke(state["messages"])]}).compile())
    with scripted_rollout(engine) as rollout:
        run(graph)

    trajectory = engine.trajectory(rollout)
    assert attempts(trajectory) == [("at last", 1, False)]
    assert trajectory.calls[0].tokens.retries == 2


def test_the_authors_max_retries_is_kept_and_the_error_is_noted(engine: ScriptedEngine) -> None:
    engine.script = in_order(fail(500))
    graph = wrap(one_node(lambda state: {"messages": [chat(engine.base_url).invoke("x")]}).compile())
    with scripted_rollout(engine) as rollout, pytest.raises(openai.InternalServerError):
        graph.invoke(ASK)

    (call,) = engine.trajectory(rollout).calls
    assert call.note is not None and call.note.error is not None
    assert "scripted status 500" in call.note.error.message


def test_a_stream_the_agent_leaves_early_is_noted_as_aborted(engine: ScriptedEngine) -> None:
    model = chat(engine.base_url)

    def node(state: MessagesState) -> dict[str, Any]:
        stream: Any = model.stream("a long story")
        chunk = next(chunk for chunk in stream if chunk.content)
        stream.close()
        return {"messages": [chunk.content]}

    graph = wrap(one_node(node).compile())
    with scripted_rollout(engine) as rollout:
        graph.invoke(ASK)

    (note,) = rollout.recorder.notes()
    assert note.error is not None
    assert note.error.kind == "Aborted"


async def test_a_cancelled_call_is_noted_as_aborted(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say("late", delay_s=5)
    wrap(one_node(lambda state: {}).compile())
    with scripted_rollout(engine) as rollout, pytest.raises(TimeoutError):
        await asyncio.wait_for(chat(engine.base_url).ainvoke("x"), 0.3)

    (note,) = rollout.recorder.notes()
    assert note.error is not None
    assert note.error.kind == "Aborted"
