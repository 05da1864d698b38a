"""A rollout by each adapter, and by a plain client, is the same in a Ray actor as in the training's process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_adapter_agents
from ray_runs import HERE as SHARED
from ray_runs import a_context, in_workers, rows

from woodshed.testing import Reply, ScriptedEngine, call_tool, say

HERE = Path(__file__).parent
pytestmark = [
    # What the frameworks warn of while they are imported is for their own tests.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=1, object_store_memory=100_000_000, include_dashboard=False)
    yield
    ray.shutdown()


def clerk(request: dict[str, Any]) -> Reply:
    """Call the tool once, then tell its result."""
    last = request["messages"][-1]
    return say(f"it is {last['content']}") if last["role"] == "tool" else call_tool("add", id="call_add", a=1, b=2)


@pytest.mark.parametrize("name", list(ray_adapter_agents.AGENTS))
async def test_a_rollout_in_a_worker_is_the_same_as_one_in_this_process(
    ray_cluster: None, tmp_path: Path, name: str
) -> None:
    agent, question = ray_adapter_agents.AGENTS[name], ray_adapter_agents.QUESTION
    env = {"env_vars": {"PYTHONPATH": f"{HERE}:{SHARED}", "CREWAI_STORAGE_DIR": str(tmp_path)}}
    here, there = tmp_path / "here", tmp_path / "there"

    with ScriptedEngine(clerk) as engine:
        context = a_context(here, engine, agent, None)
        local = await context.rollout(0, "0/s/0", question, "s")
        context.store.close()
        async with in_workers(there, engine, agent, scenarios=[question], runtime_env=env) as context:
            remote = await context.rollout(0, "0/s/0", question, "s")
            context.store.close()

    assert local.status == remote.status == "completed", (local.error, remote.error)
    assert "3" in remote.output
    assert len(remote.calls) == 2
    assert rows(there) == rows(here)
