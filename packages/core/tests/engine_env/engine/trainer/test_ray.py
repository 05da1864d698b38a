"""Promises of trainers on a Ray cluster: gradient, resuming and kills are those of one machine, wherever a rank runs.

The cluster is two nodes of this machine, of which the head has no room for a rank. The ranks' processes take many
seconds to start, so each test asserts several things.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import rank_programs
import ray
import ray_programs
import torch
from rank_programs import alone
from ray.cluster_utils import Cluster
from ray.train import RunConfig, ScalingConfig
from tiny_trainer import POLICY, SESSIONS, numbered
from torch import Tensor

from woodshed.engine.client.config import Trainers
from woodshed.engine.client.scratch import scratch_folder
from woodshed.engine.trainer import Trainer
from woodshed.engine.trainer.launch_ray import JobTrainer
from woodshed.engine.trainer.ray_place import wait_for_room
from woodshed.engine.trainer.ray_rank import InterfaceConfig
from woodshed.errors import TrainError
from woodshed.testing.waiting import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Ray's own, raised in its modules.
    *(
        pytest.mark.filterwarnings(f"ignore::{kind}")
        for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning")
    ),
]

_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Workers that nobody has asked for take the cores of those that are.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_raylet_start_wait_time_s": "300",
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder for temporary files of the cluster's nodes."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def cluster(scratch: Path) -> Iterator[Cluster]:
    """Start a head without room for a rank, and a node with two cores."""
    with pytest.MonkeyPatch.context() as patch:
        # Ray's own files stay where paths are short: those of sockets must be.
        for name, value in {**_SETTINGS, "RAY_TMPDIR": tempfile.gettempdir(), "TMPDIR": str(scratch)}.items():
            patch.setenv(name, value)
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            started.add_node(num_cpus=2)
            path = {"PYTHONPATH": str(Path(ray_programs.__file__).parent)}
            ray.init(
                address=started.address,
                logging_level="warning",
                log_to_driver=False,
                runtime_env={"env_vars": path},
            )
            yield started
        finally:
            ray.shutdown()
            started.shutdown()


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_gradient_of_three_ranks_on_ray_is_that_of_one_process(
    cluster: Cluster, model_path: str, tmp_path: Path
) -> None:
    one = alone(rank_programs.gradients, model_path)
    JobTrainer(
        ray_programs.gradients,
        train_loop_config={"model": model_path, "folder": str(tmp_path)},
        torch_config=InterfaceConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=3, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(storage_path=str(tmp_path / "unused")),
    ).fit()
    of_rank = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(3)]

    for kind in ("whole", "split"):
        for name, found in of_rank[0][kind].items():
            assert difference(found["gradient"], one[name]["gradient"]) < 1e-6, name
            assert all(torch.equal(found["gradient"], other[kind][name]["gradient"]) for other in of_rank[1:])
            assert found["loss"] == pytest.approx(one[name]["loss"], rel=1e-5, abs=1e-7)
    assert [found["whole"]["grpo/one row"]["parts"] for found in of_rank] == [1, 0, 0]
    addresses = psutil.net_if_addrs()[of_rank[0]["interface"]]
    assert any(one.address == cluster.address.rpartition(":")[0] for one in addresses)


async def test_a_run_moves_to_ray_and_back_and_costs_no_rollout_where_rank_or_launcher_is_killed(
    cluster: Cluster,
    scratch: Path,
    model_path: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight = alone(rank_programs.steps, model_path, str(tmp_path / "straight"), 1, 6)
    home = tmp_path / "moved"
    alone(rank_programs.steps, model_path, str(home), 1, 2)
    of = Trainer(model_path, home, POLICY, trainers=Trainers(count=2, ray=cluster.address))
    try:
        state = await of.start()
        assert state.steps == ("s1", "s2") and state.checkpoints == str(home / "checkpoints")
        assert (await of.step(numbered(3), SESSIONS)).version == 3
        assert len(list(scratch.glob("woodshed-trainer-*/home/checkpoints/00003"))) == 1
        killed, launcher = ranks_of(of), of.pid
        assert launcher is not None and [psutil.Process(rank).ppid() for rank in killed] == [raylet(cluster)] * 2
        os.kill(killed[1], signal.SIGSTOP)  # the first waits for its part of the gradient
        waiting = asyncio.create_task(of.step(numbered(4), SESSIONS))
        await asyncio.sleep(0.5)
        os.kill(killed[1], signal.SIGKILL)
        report = await waiting
        assert report.version == 4 and report.metrics["rollouts"] == 8 and report.metrics["micro_batches"] == 2
        assert await of.step(numbered(4), SESSIONS) == report
        survivors = ranks_of(of)
        assert of.pid is not None and not {*killed, launcher} & {*survivors, of.pid}
        os.kill(of.pid, signal.SIGKILL)

        await eventually(lambda: not any(map(alive, (*killed, launcher, *survivors))), "no rank is left")
        await eventually(lambda: ray.available_resources().get("CPU") == 2, "their cores are free again")
    finally:
        await of.close()
    last = alone(rank_programs.steps, model_path, str(home), 5, 6)

    assert last["state"].steps == straight["state"].steps == tuple(f"s{k}" for k in range(1, 7))
    assert difference(last["weights"], straight["weights"]) < 1e-4
    assert difference(last["optimizer"], straight["optimizer"]) < 1e-4
    said = next(m for m in caplog.messages if "exit status" in m)
    assert "step 's4'" in said and re.search(rf"trainer 2 of 2 ended: .*pid: {killed[1]} .*the others", said)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    def is_alone() -> bool:
        # Once, on a busy machine, the lock was still held some seconds after the killed rank counted as ended.
        with scratch_folder("woodshed-trainer-") as next_one:
            return [found for found in scratch.glob("woodshed-trainer-*") if found.is_dir()] == [next_one]

    await eventually(is_alone, "the killed rank's folder is removed by the next one")


async def test_a_resource_that_the_cluster_lacks_is_named(cluster: Cluster, model_path: str, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"trainers=1 needs GPU 1 .*after 0\.5 s .*the cluster has GPU 0 \(0 of them"):
        wait_for_room(1, {"CPU": 1.0, "GPU": 1.0}, 0.5)
    wait_for_room(2, {"CPU": 1.0}, 60)
    of = _Impatient(model_path, tmp_path, POLICY, trainers=Trainers(count=3, ray=cluster.address))
    with pytest.raises(TrainError, match=r"trainers=3 needs CPU 3 .*\(CPU 1 for each trainer\).*has CPU 2 \(2 of them"):
        await of.start()

    assert of.pid is None


class _Impatient(Trainer):
    """A trainer whose launcher waits a second for room."""

    def _command(self) -> tuple[str, ...]:
        python, _, module, *arguments = super()._command()
        code = f"import {module} as it; it.PLACED_WITHIN_S = 1.0; it.main()"
        return (python, "-c", code, *arguments)


def ranks_of(of: Trainer) -> list[int]:
    """Return the process ids of the ranks that were started last, the first one first."""
    found = {int(rank): int(pid) for pid, rank in re.findall(r"pid=(\d+)\) world_rank=(\d)", of.log.read_text())}
    return [found[rank] for rank in sorted(found)]


def raylet(cluster: Cluster) -> int:
    """Return the process id of the node that is not the head."""
    (node,) = cluster.worker_nodes
    return node.all_processes["raylet"][0].process.pid


def alive(pid: int) -> bool:
    """Return whether a process runs."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
