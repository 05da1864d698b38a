"""A checkpointer that outlives a rollout is seen by its effect; a thread of its own for every rollout is not."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from author_graphs import chat
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from woodshed.testing import ScriptedEngine, say, scripted_rollout
from woodshed.training.report.shared_state import shared_state
from woodshed.types import Trajectory
from woodshed_langgraph import wrap

ANSWERS = [
    "There are four lamps on the shelf next to the window.",
    "Seven horns are left in the storage room upstairs.",
]
SAVER = InMemorySaver()


def graph(url: str, saver: InMemorySaver) -> Any:
    model = chat(url)

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    return wrap(StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile(checkpointer=saver))


def attempts(saver_of: Callable[[], InMemorySaver], thread_of: Callable[[], str], *scenarios: str) -> list[Trajectory]:
    """Return one rollout per scenario, one after the other."""
    answers = iter(ANSWERS)
    done = []
    with ScriptedEngine(lambda request: say(next(answers))) as engine:
        for scenario in scenarios:
            agent = graph(engine.base_url, saver_of())
            with scripted_rollout(engine, scenario_id=scenario) as rollout:
                agent.invoke(
                    {"messages": [("user", f"How many {scenario}?")]}, {"configurable": {"thread_id": thread_of()}}
                )
            done.append(engine.trajectory(rollout))
    return done


@pytest.mark.parametrize("scenarios", [("lamps", "lamps"), ("lamps", "horns")])
def test_a_module_level_saver_with_one_thread_is_named(scenarios: tuple[str, str]) -> None:
    thread = uuid.uuid4().hex  # constant within the run, and the tests do not share it

    first, second = attempts(lambda: SAVER, lambda: thread, *scenarios)

    assert [m.content for m in second.calls[0].tokens.messages][1] == ANSWERS[0]
    (warning,) = shared_state([first, second])
    assert ANSWERS[0] in warning and "thread_id" in warning
    assert first.rollout_id in warning and second.rollout_id in warning and repr(scenarios[1]) in warning


@pytest.mark.parametrize(
    ("saver_of", "thread_of"),
    [(lambda: SAVER, lambda: uuid.uuid4().hex), (InMemorySaver, lambda: "1")],
    ids=["a thread of its own", "a saver of its own"],
)
def test_the_readmes_remedies_end_it(saver_of: Any, thread_of: Any) -> None:
    first, second = attempts(saver_of, thread_of, "lamps", "lamps")

    assert len(second.calls[0].tokens.messages) == 1
    assert shared_state([first, second]) == []
