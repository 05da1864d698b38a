"""The rollout on a server, and what is said of it before and after."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp_servers import hostile

from woodshed.errors import ConfigError, CostCeilingError, JudgeError, McpServerError, McpServerUnreachable
from woodshed.mcp import Job, Limits, McpAgent, Scenario, Server, Sessions
from woodshed.mcp.comparison import Pair, compare, pairs, tool_and_answer_given
from woodshed.mcp.frameworks import load_agent
from woodshed.mcp.report import most_changed
from woodshed.rewards.function import FunctionReward
from woodshed.training.run.store import RunStore
from woodshed.types import Failure, Judgement, Score, ToolCall, Trajectory


def agent(where: str | list[str], run: Any, **settings: Any) -> McpAgent:
    sessions = Sessions(server=Server.of(where), limits=Limits(open_s=10, call_s=10))
    return McpAgent(sessions=sessions, framework="by hand", run=run, **settings)


async def test_the_agent_gets_the_servers_words_and_a_session_of_its_own(shop_url: str) -> None:
    jobs: list[Job] = []

    async def run(job: Job) -> str:
        jobs.append(job)
        return (await job.call("get_stock", {"item": "Tuba"})).text

    practising = agent(shop_url, run, tools=["get_stock"])
    output = await practising(Scenario(id="s", task="How many Tubas?"))
    await practising("And now?")

    assert output == {"answer": "66 left", "metrics": {"tool_calls": 1, "tool_errors": 0}}
    assert [(job.task, job.instructions, [t.name for t in job.tools]) for job in jobs] == [
        (task, "You are the clerk of a music shop. Look it up, then answer.", ["get_stock"])
        for task in ("How many Tubas?", "And now?")
    ]
    assert (practising.tally.opened, practising.tally.closed) == (3, 3)  # one to read what the server catalogs


async def test_a_broken_session_fails_the_rollout_even_where_the_framework_hides_it() -> None:
    async def run(job: Job) -> str:
        try:
            await job.call("die", {})
        except McpServerError as hidden:
            return f"the tool failed: {hidden}"
        return "unreachable"

    practising = agent(hostile("--die"), run)

    with pytest.raises(McpServerUnreachable, match="broke off"):
        await practising("Die.")
    assert practising.tally.opened == practising.tally.closed == 2


async def test_a_server_that_is_gone_fails_the_rollout_and_is_named() -> None:
    with pytest.raises(McpServerUnreachable, match=r"nothing answers at 'http://127\.0\.0\.1:9/mcp'"):
        await agent("http://127.0.0.1:9/mcp", None)("Anything?")


def test_a_framework_without_an_agent_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no agent is written in 'autogen'; installed are: .*langgraph"):
        load_agent("autogen")


def attempt(name: str, *calls: bool, answer: str = "it is 4", status: Any = "completed") -> Trajectory:
    """A rollout whose tool calls went well or not, and its answer."""
    broken = Failure(kind="ToolError", message="no")
    made = tuple(ToolCall(tool_call_id=None, name="t", arguments={}, error=None if well else broken) for well in calls)
    return Trajectory(rollout_id=name, scenario_id="s", tool_calls=made, output={"answer": answer}, status=status)


@pytest.mark.parametrize(
    ("made", "value"),
    [
        (attempt("a", True), 1.0),
        (attempt("a", False, True), 1.0),
        (attempt("a", True, False), 0.0),
        (attempt("a"), 0.0),
        (attempt("a", True, answer=" "), 0.0),
        (Trajectory(rollout_id="r", scenario_id="s", output="text"), 0.0),
    ],
)
def test_a_rollout_worked_where_a_tool_answered_last_and_the_agent_too(made: Trajectory, value: float) -> None:
    assert tool_and_answer_given(made, Scenario(id="s", task="t")) == value


def pair(task: str, before: list[Trajectory], after: list[Trajectory]) -> Pair:
    return Pair(scenario=Scenario(id=task, task=task, source=task), before=tuple(before), after=tuple(after))


async def test_the_judge_compares_before_and_after_side_by_side() -> None:
    reward = FunctionReward(lambda t: {"good": 0.8, "bad": 0.2}.get(t.rollout_id.split("-")[0]))
    found = [
        pair("better", [attempt("bad-1"), attempt("good-1")], [attempt("good-2")]),
        pair("worse", [attempt("good-3")], [attempt("bad-3")]),
        pair("same", [attempt("bad-4")], [attempt("bad-5")]),
        pair("masked", [attempt("good-6")], [attempt("good-7", status="failed")]),
    ]

    comparison = await compare(reward, found)

    assert comparison is not None
    assert comparison.model_dump() == pytest.approx(
        {"before": (0.5 + 0.8 + 0.2) / 3, "after": (0.8 + 0.2 + 0.2) / 3, "preferred_after": 0.5,
         "scenarios": 3, "unjudged": 1, "cost_usd": 0.0}
    )  # fmt: skip


async def test_a_judge_that_fails_compares_nothing() -> None:
    class Silent:
        async def judge_group(self, trajectories: Any) -> Judgement:
            if trajectories[0].rollout_id == "a":
                raise JudgeError("no")
            scores = tuple(Score(rollout_id=name, value=1) for name in "bc")
            return Judgement(error=Failure(kind="JudgeError", message="no"), scores=scores)

    silent: Any = Silent()
    assert await compare(silent, [pair("x", [attempt("a")], [attempt("b")])] * 2) is None
    assert await compare(silent, [pair("x", [attempt("b")], [attempt("c")])]) is None


async def test_a_ceiling_that_is_reached_ends_the_comparison_when_every_request_has_ended() -> None:
    ended: list[str] = []

    class Dear:
        async def judge_group(self, trajectories: Any) -> Judgement:
            if trajectories[0].rollout_id == "a":
                raise CostCeilingError("no more")
            await asyncio.sleep(0.05)
            ended.append(trajectories[0].rollout_id)
            return Judgement()

    dear: Any = Dear()
    with pytest.raises(CostCeilingError):
        await compare(dear, [pair(name, [attempt(name)], [attempt(name + "'")]) for name in "abc"])

    assert sorted(ended) == ["b", "c"]


def test_pairs_are_what_a_run_keeps_of_both_evaluations(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for slot in ("before/one/0", "before/one/1", "after/one/0", "before/two/0"):
        store.save_trajectory(slot, attempt(slot))
    scenarios = [Scenario(id=name, task=name) for name in ("one", "two")]

    (found,) = pairs(store, scenarios, 2)
    store.close()

    assert [t.rollout_id for t in found.before] == ["before/one/0", "before/one/1"]
    assert [t.rollout_id for t in found.after] == ["after/one/0"]


def test_the_examples_are_those_that_changed_most_and_of_different_kinds() -> None:
    same, better, worse = (
        pair(name, [attempt("a", before)], [attempt("b", after)])
        for name, before, after in (("same", True, True), ("better", False, True), ("worse", True, False))
    )

    assert [p.scenario.task for p in most_changed([same, better, better, worse], tool_and_answer_given)] == [
        "better",
        "worse",
        "same",
    ]
