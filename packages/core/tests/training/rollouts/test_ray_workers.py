"""Rollouts in Ray actors end as in the training's process, and a worker that is lost costs no rollout. Real Ray."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import ray_agents
from ray_runs import HERE, Listener, a_context, fresh, in_workers, rows

import woodshed
from woodshed.capture import take_late_calls
from woodshed.testing.engine import ScriptedEngine
from woodshed.testing.replies import say
from woodshed.testing.waiting import eventually
from woodshed.training.rollouts import ray_cluster, ray_pool
from woodshed.training.rollouts.groups import run_groups
from woodshed.types import Trajectory

SCENARIOS = list(ray_agents.AGENTS)


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    with ScriptedEngine(lambda request: say(f"you said {request['messages'][-1]['content']}")) as running:
        yield running


async def roll(context: Any, *scenarios: str) -> list[Trajectory]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(context.rollout(0, f"0/{n}/{s}", s, s)) for n, s in enumerate(scenarios)]
    return [task.result() for task in tasks]


async def a_step(context: Any) -> None:
    reward = woodshed.FunctionReward(lambda t: float(len(t.calls) + len(t.metrics)))
    await run_groups(context, 0, [(name, name) for name in SCENARIOS], reward, Listener())
    late = take_late_calls()
    context.store.save_fact("late", [sum(late.values()), *{message.partition(" ")[0] for message in late}])
    context.store.close()


async def test_a_step_in_workers_leaves_the_same_rows_as_one_in_this_process(
    cluster: str, engine: ScriptedEngine, tmp_path: Path
) -> None:
    take_late_calls()
    here, there = tmp_path / "here", tmp_path / "there"
    settings = {"rollout_timeout_s": 6.0}

    await a_step(a_context(here, engine, ray_agents.by_name, None, **settings))
    async with in_workers(
        there, engine, ray_agents.by_name, count=2, scenarios=SCENARIOS, settings=settings
    ) as context:
        await a_step(context)

    same, other = rows(here), rows(there)
    bodies = {row[2]["scenario_id"]: row[2] for row in same["trajectories"]}
    assert {name: body["status"] for name, body in bodies.items()} == {
        "works": "completed", "returns_no_json": "completed", "fails": "failed", "fails_by_the_engine": "failed",
        "swallows_our_error": "failed", "takes_too_long": "timed_out", "leaves": "failed", "leaks": "completed",
    }  # fmt: skip
    assert bodies["fails"]["error"]["kind"] == "Refused"
    assert bodies["fails"]["error"]["where"].startswith("ray_agents.py:")
    assert bodies["fails_by_the_engine"]["error"]["cause"] == "infrastructure"
    assert bodies["works"]["calls"][0]["note"]["agent"] == "clerk"
    assert bodies["works"]["tool_calls"][0]["result"] == "7 of you said works"
    assert same["facts"] == [["late", [2, "M.ask()"]]]
    assert {table: found for table, found in other.items() if found != same[table]} == {}


async def test_a_rollout_runs_outside_this_process_and_the_workers_end_with_the_run(
    cluster: str, engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with in_workers(tmp_path, engine, ray_agents.says_where, count=2) as context:
        found = await roll(context, *"abcd")

    pids = {t.output["pid"] for t in found}
    assert len(pids) == 2
    assert os.getpid() not in pids
    await eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the workers have ended")


async def test_the_rollouts_of_a_worker_that_is_killed_are_run_again_and_nothing_of_theirs_is_kept(
    cluster: str, engine: ScriptedEngine, tmp_path: Path
) -> None:
    said = list[str]()
    marker = tmp_path / "one.dies"

    async with in_workers(tmp_path / "r", engine, ray_agents.dies_once, count=2, said=said) as context:
        found = await roll(context, str(marker), "a", "b", "c")

    assert [t.status for t in found] == ["completed"] * 4
    assert [len(t.calls) for t in found] == [1] * 4
    assert len(said) == 1
    assert "ended while it ran 2 rollouts" in said[0]
    # The session of the lost attempt is closed: whoever still has its secret is refused.
    with pytest.raises(openai.ConflictError, match="sealed"):
        openai.OpenAI(base_url=engine.base_url, api_key=marker.read_text(), max_retries=0).chat.completions.create(
            model="m", messages=[{"role": "user", "content": "late"}]
        )
    kept = {t.rollout_id for t in found}
    assert {seen.rollout_id for seen in engine.requests} - kept != set()
    assert kept == {row[1] for row in _stored(context)}


def _stored(context: Any) -> list[Any]:
    return list(context.store._db.execute("SELECT slot, rollout_id FROM trajectories"))


async def test_a_rollout_that_ends_every_worker_is_masked_and_costs_no_other_one(
    cluster: str, engine: ScriptedEngine, tmp_path: Path
) -> None:
    said = list[str]()

    async with in_workers(tmp_path, engine, ray_agents.always_dies, count=1, said=said) as context:
        deadly, *others = await roll(context, "deadly", "a", "b")

    assert deadly.status == "failed"
    assert deadly.error is not None
    assert (deadly.error.kind, deadly.error.cause) == ("WorkerError", "infrastructure")
    assert "ended 3 times, the last time with no other rollout beside it" in deadly.error.message
    assert [t.status for t in others] == ["completed"] * 2
    assert len(said) == 3


async def test_an_agent_that_blocks_its_worker_is_masked_alone(
    cluster: str, engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "_ANSWER_S", 1.0)
    settings = {"rollout_timeout_s": 4.0}

    async with in_workers(tmp_path, engine, ray_agents.blocks, count=1, settings=settings) as context:
        blocking, *others = await roll(context, "blocks", "a", "b")

    assert blocking.status == "timed_out"
    assert blocking.error is not None
    assert "blocks its event loop" in blocking.error.message
    assert [t.status for t in others] == ["completed"] * 2


async def test_a_cancelled_rollout_cleans_up_in_its_worker_and_closes_its_session(
    cluster: str, engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with in_workers(tmp_path / "r", engine, ray_agents.waits, count=1) as context:
        running = asyncio.create_task(roll(context, str(tmp_path)))
        await eventually((tmp_path / "begun").exists, "the agent runs")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await eventually((tmp_path / "ended").exists, "the agent was cancelled")

    assert all(session.sealed for session in engine.sessions._by_secret.values())


async def test_what_a_worker_logs_is_logged_here_once_and_no_more_than_is_asked_for(
    cluster: str, engine: ScriptedEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with in_workers(tmp_path, engine, ray_agents.warns, count=2, rollouts_per_worker=1) as context:
        await roll(context, "top_k", "top_k", "seed")

    found = [r for r in caplog.records if r.name == "woodshed.capture"]
    assert {r.getMessage() for r in found} == {"setting 'top_k' is dropped", "setting 'seed' is dropped"}
    assert {r.levelno for r in found} == {logging.WARNING}


async def test_the_clock_of_a_node_matters_to_nothing(cluster: str, engine: ScriptedEngine, tmp_path: Path) -> None:
    before = time.time()

    async with in_workers(tmp_path, engine, ray_agents.in_another_time) as context:
        (found,) = await roll(context, "a")

    assert before <= found.started_s <= found.started_s + found.latency_s <= time.time()
    assert all(before <= c.tokens.started_s <= time.time() for c in found.calls)


async def test_a_function_of_a_notebook_travels_with_its_code(
    cluster: str, engine: ScriptedEngine, tmp_path: Path
) -> None:
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "import woodshed, openai\n"
        "greeting = 'hello'\n"
        "def ask(text):\n"
        "    here = woodshed.current_rollout()\n"
        "    with openai.OpenAI(base_url=here.base_url, api_key=here.secret) as client:\n"
        "        answer = client.chat.completions.create(\n"
        "            model='m', messages=[{'role': 'user', 'content': greeting + text}])\n"
        "    return answer.choices[0].message.content\n",
        cell,
    )

    async with in_workers(tmp_path, engine, cell["ask"]) as context:
        (found,) = await roll(context, "!")

    assert found.output == "you said hello!"


async def test_a_cache_of_a_notebook_cannot_travel_and_the_error_says_what_to_do(
    cluster: str, engine: ScriptedEngine, tmp_path: Path
) -> None:
    main = sys.modules["__main__"]
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec("import functools\n@functools.cache\ndef agent(): ...\ndef ask(text):\n    return agent()\n", cell)
    main.agent = cell["agent"]  # type: ignore[attr-defined]
    try:
        with pytest.raises(woodshed.ConfigError, match="move it with all it uses into a module"):
            async with in_workers(tmp_path, engine, cell["ask"]):
                raise AssertionError("a worker has started")
    finally:
        del main.agent  # type: ignore[attr-defined]


async def test_a_module_that_only_this_machine_has_is_named_with_what_to_do(
    cluster: str, engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package_here").mkdir()
    (tmp_path / "package_here" / "__init__.py").write_text("")
    (tmp_path / "package_here" / "agent.py").write_text("def ask(scenario): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    import package_here.agent

    with pytest.raises(woodshed.ConfigError) as refused:
        async with in_workers(tmp_path / "r", engine, package_here.agent.ask):
            raise AssertionError("a worker has started")

    message = str(refused.value)
    assert "package_here" in message
    assert f"runtime_env={{'py_modules': ['{tmp_path / 'package_here'}']}}" in message


async def test_another_woodshed_on_a_node_is_refused_and_both_are_named(
    cluster: str, engine: ScriptedEngine, tmp_path: Path
) -> None:
    (tmp_path / "woodshed").mkdir()
    (tmp_path / "woodshed" / "__init__.py").write_text("__version__ = '0.0.7'\n")
    env = {"env_vars": {"PYTHONPATH": f"{tmp_path}:{HERE}"}}

    with pytest.raises(woodshed.WorkerError, match=rf"has woodshed 0\.0\.7, and this process {woodshed.__version__}"):
        async with in_workers(tmp_path / "r", engine, ray_agents.works, runtime_env=env):
            raise AssertionError("a worker has started")


async def test_more_workers_than_the_cluster_has_cpus_for_say_so(
    cluster: str, engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "RESOURCES_S", 5.0)

    with pytest.raises(woodshed.WorkerError, match=r"missing: CPU.*cpus_per_worker=3; the cluster has 4 on 1 nodes"):
        async with in_workers(tmp_path, engine, ray_agents.works, count=2, cpus_per_worker=3):
            raise AssertionError("the workers have started")


async def test_an_engine_that_workers_do_not_reach_is_named(
    cluster: str, engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with in_workers(tmp_path, engine, ray_agents.works) as context:
        assert context.workers is not None
        with pytest.raises(woodshed.WorkerError, match=r"does not reach the engine at http://127.0.0.1:9.*loopback"):
            await context.workers.reach("http://127.0.0.1:9")


async def test_a_local_folder_is_refused_where_ray_takes_it_from_the_program(
    cluster: str, engine: ScriptedEngine, tmp_path: Path
) -> None:
    with pytest.raises(woodshed.ConfigError, match=r"called that already: ray.init\(runtime_env="):
        async with in_workers(fresh(tmp_path), engine, ray_agents.works, runtime_env={"working_dir": str(tmp_path)}):
            raise AssertionError("the workers have started")
    with pytest.raises(woodshed.ConfigError, match="connected to the Ray cluster at"):
        async with in_workers(fresh(tmp_path), engine, ray_agents.works, address="10.0.0.1:6379"):
            raise AssertionError("the workers have started")
