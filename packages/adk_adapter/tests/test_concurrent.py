"""Rollouts of one module-level runner side by side: none sees another's answers, threads included."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from author_agents import AGENTS, agent
from running import QUIET, SSE, ask, runner_of, said

from woodshed.capture import Rollout
from woodshed.errors import LeakError
from woodshed.testing import ScriptedEngine, scripted_rollout
from woodshed.types import Trajectory
from woodshed_adk import instrument

pytestmark = QUIET

GEMINI = "gemini-2.5-flash"
ROLLOUTS = 32


def texts(trajectory: Trajectory) -> str:
    """Return all a trajectory's calls were sent, as one text."""
    return " ".join(m.content or "" for call in trajectory.calls for m in call.tokens.messages)


@pytest.mark.parametrize("name", ["with_tool", "agent_tool", "task", "parallel", "graph"])
async def test_32_concurrent_rollouts_of_one_runner_do_not_mix(engine: ScriptedEngine, name: str) -> None:
    runner = runner_of(instrument(AGENTS[name](GEMINI)))

    async def one(number: int) -> tuple[Rollout, list[Any]]:
        mode: dict[str, Any] = ({}, {"run_config": SSE}, {"sync": True}, {})[number % 4]
        with scripted_rollout(engine) as rollout:
            return rollout, await ask(runner, f"question-{number}-", session_id=str(number), **mode)

    done = await asyncio.gather(*(one(number) for number in range(ROLLOUTS)))
    assert [events[-1] for _, events in done if isinstance(events[-1], Exception)] == []
    trajectories = [engine.trajectory(rollout) for rollout, _ in done]
    assert sum(len(t.calls) for t in trajectories) == len(engine.requests)
    assert len({len(t.calls) for t in trajectories}) == len({len(t.tool_calls) for t in trajectories}) == 1
    for number, trajectory in enumerate(trajectories):
        asked = [other for other in range(ROLLOUTS) if f"question-{other}-" in texts(trajectory)]
        assert asked == [number]
    for (rollout, _), trajectory in zip(done, trajectories, strict=True):
        noted = {note.call_id for note in rollout.recorder.notes()}
        assert noted == {call.tokens.call_id for call in trajectory.calls}


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
def test_an_agent_started_by_a_tool_in_a_raw_thread_belongs_to_its_rollout(engine: ScriptedEngine, start: Any) -> None:
    inner = runner_of(agent(GEMINI, "inner"))

    def think(question: str) -> str:
        """Think in a thread."""
        return said(start(lambda: asyncio.run(ask(inner, question))))[-1]

    outer = agent(GEMINI, "outer", 'think {"question": "why"} | done', tools=[think])
    instrument(outer)
    with scripted_rollout(engine) as rollout:
        asyncio.run(ask(runner_of(outer), "go"))

    first, second, last = (call.note for call in engine.trajectory(rollout).calls)
    assert first is not None and second is not None and last is not None
    assert [note.agent for note in (first, second, last)] == ["outer", "inner", "outer"]
    assert second.parent_call_id == first.call_id
    assert [tool.result for tool in rollout.recorder.tool_calls()] == ['{"result": "You said: why"}']


def test_a_call_without_a_rollout_leaks_nothing_while_others_are_active(engine: ScriptedEngine) -> None:
    runner = runner_of(instrument(agent(GEMINI, "stray")))
    with scripted_rollout(engine):
        (error,) = contextvars.Context().run(lambda: asyncio.run(ask(runner, "outside")))[-1:]

    assert isinstance(error, LeakError)
    assert "a model call of agent 'stray' has no rollout although 1 rollouts are active" in str(error)
    assert len(engine.requests) == 0


def test_one_agent_serves_many_event_loops(engine: ScriptedEngine) -> None:
    runner = runner_of(instrument(AGENTS["with_tool"](GEMINI)))
    with scripted_rollout(engine) as rollout:
        for number in range(4):
            asyncio.run(ask(runner, "hi", session_id=str(number)))

    assert len(engine.trajectory(rollout).calls) == 8
