"""Rollouts of one module-level crew side by side: none sees another's answers, threads included."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from author_crews import agent, at_the_same_time, delegating, in_text, llm, one_agent, task
from crewai import Crew
from crewai.tools import tool

from woodshed.testing import ScriptedEngine, call_tool, in_order, say, scripted_rollout
from woodshed.types import Trajectory
from woodshed_crewai import trainable


def texts(trajectory: Trajectory) -> str:
    """Return all a trajectory's calls were sent, as one text."""
    return " ".join(m.content or "" for call in trajectory.calls for m in call.tokens.messages)


@pytest.mark.parametrize(
    ("build", "rollouts"), [(one_agent, 32), (in_text, 8), (delegating, 16), (at_the_same_time, 8)]
)
async def test_concurrent_rollouts_of_one_crew_do_not_mix(engine: ScriptedEngine, build: Any, rollouts: int) -> None:
    """Each on a copy, as `kickoff_for_each` makes them: a crew keeps the state of its run."""
    crew = trainable(build(engine.base_url))

    async def one(number: int) -> tuple[str, Trajectory]:
        question = {"question": f"question-{number}-"}
        with scripted_rollout(engine) as rollout:
            own: Any = crew.copy()
            done = await (own.akickoff(question) if number % 2 else asyncio.to_thread(own.kickoff, question))
        return done.raw, engine.trajectory(rollout)

    done = await asyncio.gather(*(one(number) for number in range(rollouts)))

    assert sum(len(trajectory.calls) for _, trajectory in done) == len(engine.requests)
    assert len({len(trajectory.calls) for _, trajectory in done}) == 1
    for number, (answer, trajectory) in enumerate(done):
        assert answer.endswith(f"3 for question-{number}-")
        assert [n for n in range(rollouts) if f"question-{n}-" in texts(trajectory)] == [number]
        assert all(call.note is not None for call in trajectory.calls)
        assert {tool.agent for tool in trajectory.tool_calls} <= {
            call.note.agent for call in trajectory.calls if call.note
        }


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
def test_a_call_from_a_raw_thread_belongs_to_its_rollout_and_agent(engine: ScriptedEngine, start: Any) -> None:
    model = llm(engine.base_url)

    @tool("think")
    def think(x: str) -> str:
        """Think in a thread."""
        return str(start(lambda: model.call("What is a lamp?")))

    engine.script = in_order(call_tool("think", x="y"), say("a lamp"), say("done"))
    by = agent(llm(engine.base_url), tools=[think])
    with scripted_rollout(engine) as rollout:
        trainable(Crew(agents=[by], tasks=[task(by)])).kickoff(inputs={"question": "?"})

    first, inner, _ = rollout.recorder.notes()
    assert (inner.agent, inner.task, inner.parent_call_id) == ("Clerk", "answer", first.call_id)


def test_a_crew_kicked_off_in_a_raw_thread_belongs_to_its_rollout(engine: ScriptedEngine) -> None:
    crew = trainable(one_agent(engine.base_url))
    with scripted_rollout(engine) as rollout:
        in_raw_thread(lambda: crew.kickoff(inputs={"question": "?"}))

    assert len(engine.trajectory(rollout).calls) == len(engine.requests) == 2


def test_one_model_serves_many_event_loops(engine: ScriptedEngine) -> None:
    crew = trainable(one_agent(engine.base_url))
    with scripted_rollout(engine) as rollout:
        for _ in range(3):
            asyncio.run(crew.agents[0].llm.acall("What is it?"))

    assert len(engine.trajectory(rollout).calls) == 3
