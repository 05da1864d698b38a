"""Two real vLLM servers on a Ray cluster of this machine: one door, swaps over both, and nothing left of them."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from shop import POLICY, TOOLS, WEIGHTS, RunningEngine, is_alive, kill

from woodshed.engine import Engine, ServedModel
from woodshed.testing.waiting import eventually

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="needs Ray in the engine's environment (engine install --ray)"
    ),
]


def folders() -> set[Path]:
    """Return the nodes' own folders on this machine."""
    return {found for found in Path(tempfile.gettempdir()).glob("woodshed-node-*") if found.is_dir()}


def adapters(of: set[Path]) -> list[tuple[str, str]]:
    """Return actor and version of each adapter that lies in these folders."""
    found = (file for folder in of for file in folder.glob("files/*/adapter_model.safetensors"))
    return sorted((file.parents[2].name, file.parent.name) for file in found)


async def test_replicas_on_a_cluster_swap_die_and_end_as_those_of_this_machine_do(tmp_path: Path) -> None:
    model = ServedModel(name="policy", path=str(WEIGHTS), trainable=True, replicas=2, max_num_seqs=16)
    said: list[str] = []
    others = folders()
    async with Engine.ray("local", python=sys.executable).running([model], tmp_path, progress=said.append) as client:
        pair = RunningEngine(client=client, home=tmp_path)
        await client.open_policy(POLICY)
        first = await pair.train_step("ray-1")
        held = adapters(folders() - others)
        victim = pair.server("policy#1")
        kill(victim["pid"])
        async with pair.session() as session:
            for _ in range(4):
                await session.ask(tools=TOOLS)
            sealed = await session.seal()

        async def back() -> bool:
            (model,) = (await client.health()).models
            return [replica.state for replica in model.replicas] == ["ready", "ready"]

        await eventually(back, "the killed replica is back", 240, every_s=0.5)
        second = await pair.train_step("ray-2")
        await eventually(
            lambda: {name for _, name in adapters(folders() - others)} == {"policy@2"}, "old copies are removed"
        )
        health = await client.health()
        pids = [pair.server(name)["pid"] for name in ("policy#1", "policy#2")]
        (engine,) = (
            process
            for process in psutil.process_iter(["cmdline"])  # passes over those that end meanwhile
            if "woodshed.engine" in (words := process.info["cmdline"] or ())
            and any(str(tmp_path) in word for word in words)
        )
        kill(engine.pid)
        await eventually(lambda: not any(is_alive(pid) for pid in pids), "no vLLM outlives the engine", 60)

    assert [name for _, name in held] == ["policy@1"] * 2 and len({actor for actor, _ in held}) == 2
    assert (first.version, second.version) == (1, 2)
    assert first.metrics["replicas_left_out"] == second.metrics["replicas_left_out"] == 0
    assert [call.error for call in sealed.calls] == [None] * 4
    assert {v for c in sealed.calls for v in c.completions[0].weight_versions} == {1}
    assert health.failed_calls == 0 and health.models[0].restarts == 1
    assert all(replica.node for replica in health.models[0].replicas)
    assert sum("is placed on node" in line for line in said) == 2
