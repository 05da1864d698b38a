"""Rollouts of one module-level graph side by side: none sees another's answers, threads included."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from author_graphs import add, agent, by_hand, chat, fan_out
from langgraph.graph import END, START, MessagesState, StateGraph

from woodshed.capture import Rollout
from woodshed.errors import LeakError
from woodshed.testing import ScriptedEngine, scripted_rollout
from woodshed.types import Trajectory
from woodshed_langgraph import wrap


def texts(trajectory: Trajectory) -> str:
    """Return all a trajectory's calls were sent, as one text."""
    return " ".join(m.content or "" for call in trajectory.calls for m in call.tokens.messages)


def question(number: int) -> dict[str, Any]:
    return {"messages": [("user", f"question-{number}-")], "jokes": []}


@pytest.mark.parametrize("build", [agent, by_hand, fan_out])
async def test_32_concurrent_rollouts_of_one_graph_do_not_mix(engine: ScriptedEngine, build: Any) -> None:
    graph = wrap(build(chat(engine.base_url)))

    async def one(number: int) -> tuple[Rollout, Any]:
        with scripted_rollout(engine) as rollout:
            if number % 2:
                return rollout, await graph.ainvoke(question(number))
            return rollout, await asyncio.to_thread(graph.invoke, question(number))

    done = await asyncio.gather(*(one(number) for number in range(32)))
    trajectories = [engine.trajectory(rollout) for rollout, _ in done]
    assert sum(len(t.calls) for t in trajectories) == len(engine.requests)
    assert len({len(t.calls) for t in trajectories}) == 1
    if build is not fan_out:  # its workers are asked about their topic, not about the question
        for number, trajectory in enumerate(trajectories):
            assert f"question-{number}-" in texts(trajectory)
            others = [other for other in range(32) if other != number and f"question-{other}-" in texts(trajectory)]
            assert others == []
    for (rollout, _), trajectory in zip(done, trajectories, strict=True):
        noted = {note.call_id for note in rollout.recorder.notes()}
        assert noted == {call.tokens.call_id for call in trajectory.calls}


def threaded(model: Any, start: Any) -> Any:
    """Return a graph whose node asks the model in a thread of its own."""

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [start(lambda: model.invoke(state["messages"]))]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    return graph.compile()


def in_pool(work: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def in_raw_thread(work: Any) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    thread.join()
    return answers[0]


@pytest.mark.parametrize("start", [in_pool, in_raw_thread])
def test_a_call_from_a_raw_thread_belongs_to_its_rollout_and_node(engine: ScriptedEngine, start: Any) -> None:
    graph = wrap(threaded(chat(engine.base_url), start))
    with scripted_rollout(engine) as rollout:
        graph.invoke(question(1))

    (call,) = engine.trajectory(rollout).calls
    assert call.note is not None
    assert call.note.agent == "think"


def test_a_raw_thread_streams_no_more_than_it_does_unwrapped(engine: ScriptedEngine) -> None:
    """Its model is unknown to the graph's stream on Python 3.11, and must stay so inside a rollout."""
    graph = threaded(chat(engine.base_url), in_raw_thread)
    unwrapped = len(list(graph.stream(question(1), stream_mode="messages")))
    with scripted_rollout(engine):
        practised = len(list(wrap(graph).stream(question(1), stream_mode="messages")))

    assert practised == unwrapped


def test_a_call_without_a_rollout_leaks_nothing_while_others_are_active(engine: ScriptedEngine) -> None:
    model = chat(engine.base_url)
    wrap(agent(model))
    before_any, go = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def stray() -> None:
        before_any.set()
        go.wait(5)
        try:
            model.invoke("outside")
        except LeakError as error:
            errors.append(error)

    thread = threading.Thread(target=stray)
    thread.start()
    before_any.wait(5)
    with scripted_rollout(engine):
        go.set()
        thread.join()

    assert len(engine.requests) == 0
    assert "ChatOpenAI.generate() has no rollout although 1 rollouts are active" in str(errors[0])


def test_one_model_serves_many_event_loops(engine: ScriptedEngine) -> None:
    graph = wrap(by_hand(chat(engine.base_url)))
    with scripted_rollout(engine) as rollout:
        for _ in range(4):
            asyncio.run(graph.ainvoke(question(1)))

    assert len(engine.trajectory(rollout).calls) == 8


def test_the_tools_of_concurrent_rollouts_do_not_mix(engine: ScriptedEngine) -> None:
    graph = wrap(by_hand(chat(engine.base_url)))

    def one(_: int) -> Trajectory:
        with scripted_rollout(engine) as rollout:
            graph.invoke(question(1))
        return engine.trajectory(rollout)

    with ThreadPoolExecutor(8) as pool:
        trajectories = list(pool.map(one, range(16)))
    assert [[(t.name, t.result) for t in trajectory.tool_calls] for trajectory in trajectories] == [
        [(add.name, "3")]
    ] * 16
