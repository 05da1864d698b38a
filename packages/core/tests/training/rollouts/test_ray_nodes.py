"""A node that is gone takes its workers along, and costs no rollout. Two nodes of a real cluster, on this machine."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_agents
from ray_runs import in_workers

from woodshed.testing.engine import ScriptedEngine
from woodshed.testing.replies import say
from woodshed.testing.waiting import eventually
from woodshed.training.rollouts import ray_cluster


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two nodes with a CPU each."""
    utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000}, connect=True
        )
        made.add_node(num_cpus=1, object_store_memory=100_000_000)
        made.wait_for_nodes()
    yield made
    utils.ray.shutdown()
    made.shutdown()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray opens the log files of a node and leaves them open
async def test_the_rollouts_of_a_node_that_is_gone_are_run_again_on_another(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "RESOURCES_S", 40.0)
    monkeypatch.setattr("woodshed.training.rollouts.ray_pool.RESOURCES_S", 3.0)
    said = list[str]()
    release = tmp_path / "go"
    with ScriptedEngine(lambda request: say("hello")) as engine:
        async with in_workers(
            tmp_path / "r", engine, ray_agents.waits_for, count=2, rollouts_per_worker=2, said=said
        ) as context:
            running = [asyncio.create_task(context.rollout(0, f"0/{n}/0", str(release), f"{n}")) for n in range(4)]
            await eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 4, "all four run")
            nodes.remove_node(nodes.list_all_nodes()[1], allow_graceful=False)
            await eventually(lambda: len(said) == 2, "the loss and the missing CPU are said", 120)
            release.write_text("")
            found = [await each for each in running]

    assert [t.status for t in found] == ["completed"] * 4
    assert len({t.output["pid"] for t in found}) == 1
    assert "ended while it ran 2 rollouts" in said[0]
    assert "missing: CPU" in said[1] and "The run goes on with 1 of 2 rollout workers" in said[1]
