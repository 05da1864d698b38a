"""Work that is run again starts over or goes on from its checkpoint: the answers it goes on from are in use."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attempts import ASK, TWICE, attempts, one_node
from author_graphs import chat
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt

from woodshed.testing import ScriptedEngine, call_tool, in_order, say, scripted_rollout
from woodshed_langgraph import wrap

THREAD = {"configurable": {"thread_id": "1"}}
SAVERS = pytest.mark.parametrize("saver", [None, InMemorySaver], ids=["no checkpointer", "checkpointer"])


def compiled(graph: Any, saver: Any) -> Any:
    return wrap(graph.compile(checkpointer=saver and saver()))


def asks(model: Any) -> Any:
    return lambda state: {"messages": [model.invoke(state["messages"])]}


def raising_once(error: type[Exception] = ValueError) -> Any:
    tries: list[int] = []

    def check() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise error("again")

    return check


@SAVERS
@pytest.mark.parametrize("inner_saver", [None, True, False])
def test_a_sub_graph_in_a_retried_node_starts_over(
    engine: ScriptedEngine, run: Any, saver: Any, inner_saver: Any
) -> None:
    if saver is None and inner_saver:
        pytest.skip("langgraph refuses checkpointer=True without one around it")
    engine.script = in_order(say("first"), say("second"))
    inner = one_node(asks(chat(engine.base_url))).compile(checkpointer=inner_saver)
    check = raising_once()

    def node(state: MessagesState) -> Any:
        answer = inner.invoke(state)["messages"][-1]
        check()
        return {"messages": [answer]}

    graph = compiled(one_node(node, retry_policy=TWICE), saver)
    with scripted_rollout(engine) as rollout:
        final = run(graph, ASK, THREAD)

    assert final["messages"][-1].content == "second"
    assert attempts(engine.trajectory(rollout)) == [("first", 1, True), ("second", 2, False)]


@SAVERS
def test_a_sub_graph_two_deep_starts_over_with_the_node_that_is_retried(
    engine: ScriptedEngine, run: Any, saver: Any
) -> None:
    engine.script = in_order(*(say(text) for text in ("a1", "b1", "a2", "b2")))
    model, check = chat(engine.base_url), raising_once()
    innermost = one_node(asks(model)).compile()
    middle = StateGraph(MessagesState)
    middle.add_node("deep", innermost)
    middle.add_node("after", asks(model))
    middle.add_edge(START, "deep")
    middle.add_edge("deep", "after")
    inner = middle.compile()

    def node(state: MessagesState) -> Any:
        answers = inner.invoke(state)["messages"][1:]
        check()
        return {"messages": answers}

    graph = compiled(one_node(node, retry_policy=TWICE), saver)
    with scripted_rollout(engine) as rollout:
        run(graph, ASK, THREAD)

    assert attempts(engine.trajectory(rollout)) == [
        ("a1", 1, True), ("b1", 1, True), ("a2", 2, False), ("b2", 2, False),
    ]  # fmt: skip


@SAVERS
def test_a_retried_tool_node_supersedes_the_agent_in_its_tool(engine: ScriptedEngine, run: Any, saver: Any) -> None:
    helper, check = create_agent(chat(engine.base_url), []), raising_once(KeyError)

    @tool
    def ask_helper(question: str) -> str:
        """Ask the helper."""
        answer = helper.invoke({"messages": [("user", question)]})["messages"][-1].text
        check()
        return answer

    engine.script = in_order(call_tool("ask_helper", question="q"), say("helped 1"), say("helped 2"))
    graph = StateGraph(MessagesState)
    bound = chat(engine.base_url).bind_tools([ask_helper])
    graph.add_node("think", asks(bound))
    tools = ToolNode([ask_helper], handle_tool_errors=False)
    graph.add_node("tools", tools, retry_policy=TWICE._replace(retry_on=KeyError))
    graph.add_edge(START, "think")
    graph.add_edge("think", "tools")
    with scripted_rollout(engine) as rollout:
        run(compiled(graph, saver), ASK, THREAD)

    assert [call[1:] for call in attempts(engine.trajectory(rollout))] == [(1, False), (1, True), (2, False)]


@SAVERS
def test_a_retried_task_supersedes_its_answer_and_no_other_tasks(engine: ScriptedEngine, run: Any, saver: Any) -> None:
    engine.script = in_order(say("plan"), say("first"), say("second"))
    model, check = chat(engine.base_url), raising_once()

    @task
    def plan() -> str:
        return model.invoke("plan").text

    @task(retry_policy=TWICE)
    def act() -> str:
        inner = one_node(asks(model)).compile()
        answer = inner.invoke(ASK)["messages"][-1].text
        check()
        return answer

    @entrypoint(checkpointer=saver and saver())
    def work(given: Any) -> str:
        return plan().result() + act().result()

    with scripted_rollout(engine) as rollout:
        assert run(wrap(work), {}, THREAD) == "plansecond"

    assert attempts(engine.trajectory(rollout)) == [("plan", 1, False), ("first", 1, True), ("second", 2, False)]


def test_a_finished_task_is_not_superseded_when_its_entrypoint_resumes(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(say("kept"), say("draft"), say("draft again"), say("end"))
    model = chat(engine.base_url)

    @task
    def plan() -> str:
        return model.invoke("plan").text

    @entrypoint(checkpointer=InMemorySaver())
    def work(given: Any) -> str:
        first, draft = plan().result(), model.invoke("draft").text
        return first + draft + interrupt("ok?") + model.invoke("end").text

    with scripted_rollout(engine) as rollout:
        run(wrap(work), {}, THREAD)
        assert run(work, Command(resume="/"), THREAD) == "keptdraft again/end"

    assert attempts(engine.trajectory(rollout)) == [
        ("kept", 1, False), ("draft", 1, True), ("draft again", 2, False), ("end", 2, False),
    ]  # fmt: skip


@pytest.mark.parametrize(("inner_saver", "goes_on"), [(None, True), (True, True), (False, False)])
def test_a_resumed_node_keeps_the_answers_of_a_sub_graph_that_goes_on(
    engine: ScriptedEngine, run: Any, inner_saver: Any, goes_on: bool
) -> None:
    """The sub-graph finished before its node was interrupted: with a checkpoint it isn't run again."""
    engine.script = in_order(*(say(text) for text in ("own", "inner", "own again", "inner again")))
    model = chat(engine.base_url)
    inner = one_node(asks(model)).compile(checkpointer=inner_saver)

    def node(state: MessagesState) -> Any:
        model.invoke("own")
        answer = inner.invoke(state)["messages"][-1]
        interrupt("ok?")
        return {"messages": [answer]}

    graph = compiled(one_node(node), InMemorySaver)
    with scripted_rollout(engine) as rollout:
        run(graph, ASK, THREAD)
        final = run(graph, Command(resume="yes"), THREAD)

    used = final["messages"][-1].content
    calls = attempts(engine.trajectory(rollout))
    assert calls[:3] == [("own", 1, True), ("inner", 1, not goes_on), ("own again", 2, False)]
    assert [text for text, _, superseded in calls if not superseded] == (
        ["inner", "own again"] if goes_on else ["own again", "inner again"]
    )
    assert used == ("inner" if goes_on else "inner again")


def test_an_interrupt_two_deep_keeps_what_finished_and_supersedes_what_runs_again(
    engine: ScriptedEngine, run: Any
) -> None:
    engine.script = in_order(*(say(text) for text in ("planned", "draft", "draft again", "after")))
    model = chat(engine.base_url)

    def draft(state: MessagesState) -> Any:
        text = model.invoke("draft")
        interrupt("ok?")
        return {"messages": [text]}

    inner = StateGraph(MessagesState)
    inner.add_node("plan", asks(model))
    inner.add_node("draft", draft)
    inner.add_node("after", asks(model))
    inner.add_edge(START, "plan")
    inner.add_edge("plan", "draft")
    inner.add_edge("draft", "after")
    graph = compiled(one_node(one_node(inner.compile()).compile()), InMemorySaver)
    with scripted_rollout(engine) as rollout:
        run(graph, ASK, THREAD)
        run(graph, Command(resume="yes"), THREAD)

    assert attempts(engine.trajectory(rollout)) == [
        ("planned", 1, False), ("draft", 1, True), ("draft again", 2, False), ("after", 1, False),
    ]  # fmt: skip


def test_a_finished_branch_is_kept_when_its_sibling_is_resumed(engine: ScriptedEngine, run: Any) -> None:
    engine.script = lambda request: say(f"for {request['messages'][-1]['content']}")
    model = chat(engine.base_url)

    def branch(state: Any) -> Any:
        answer = model.invoke(state["topic"])
        if state["topic"] == "b":
            interrupt("ok?")
        return {"messages": [answer]}

    inner = StateGraph(MessagesState)
    inner.add_node("branch", branch)
    inner.add_conditional_edges(START, lambda s: [Send("branch", {"topic": t}) for t in "ab"], ["branch"])
    graph = compiled(one_node(inner.compile()), InMemorySaver)
    with scripted_rollout(engine) as rollout:
        run(graph, ASK, THREAD)
        run(graph, Command(resume="yes"), THREAD)

    calls = attempts(engine.trajectory(rollout))
    # Before langgraph 1.2 a sub-graph that is resumed also runs its finished branches again.
    branches_run_again = len([text for text, _, _ in calls if text == "for a"]) == 2
    assert ("for a", 1, branches_run_again) in calls
    assert ("for b", 1, True) in calls
    assert sorted(str(text) for text, _, superseded in calls if not superseded) == ["for a", "for b"]


def test_what_failed_after_a_resume_supersedes_the_answers_it_had_taken_back(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(say("first"), say("second"), say("third"))
    inner, check = one_node(asks(chat(engine.base_url))).compile(), raising_once()

    def node(state: MessagesState) -> Any:
        answer = inner.invoke(state)["messages"][-1]
        interrupt("ok?")
        check()
        return {"messages": [answer]}

    graph = compiled(one_node(node, retry_policy=TWICE), InMemorySaver)
    with scripted_rollout(engine) as rollout:
        run(graph, ASK, THREAD)
        final = run(graph, Command(resume="yes"), THREAD)
        if "__interrupt__" in final:  # before langgraph 1.2 a retry forgets the answer, and asks again
            final = run(graph, Command(resume="yes"), THREAD)

    last = final["messages"][-1].content
    calls = attempts(engine.trajectory(rollout))
    assert [text for text, _, superseded in calls if not superseded] == [last]


def test_concurrent_rollouts_of_one_thread_name_do_not_mix(engine: ScriptedEngine) -> None:
    inner = one_node(asks(chat(engine.base_url))).compile()

    async def once() -> Any:
        check = raising_once()

        async def node(state: MessagesState) -> Any:
            answer = (await inner.ainvoke(state))["messages"][-1]
            check()
            return {"messages": [answer]}

        graph = compiled(one_node(node, retry_policy=TWICE), InMemorySaver)
        with scripted_rollout(engine) as rollout:
            await graph.ainvoke(ASK, THREAD)
        return rollout

    async def several() -> Any:
        return await asyncio.gather(*(once() for _ in range(4)))

    for rollout in asyncio.run(several()):
        assert [(n.attempt, n.superseded) for n in rollout.recorder.notes()] == [(1, True), (2, False)]
