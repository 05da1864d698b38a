"""Replicas on the nodes of a real Ray cluster, several raylets on this machine; their vLLMs are scripted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import ray
import scripted_nodes
import scripted_servers
from ray.cluster_utils import Cluster
from scripted_nodes import ScriptedNode

from woodshed.engine import EngineClient
from woodshed.engine.client.config import EngineConfig, ServedModel
from woodshed.engine.cluster.join import joined
from woodshed.engine.cluster.node_processes import NodeProcesses
from woodshed.engine.run import run_engine
from woodshed.engine.vllm import supervisor as supervisor_module
from woodshed.engine.vllm.lora_slots import LoraSlots
from woodshed.engine.vllm.supervisor import Supervisor
from woodshed.errors import EngineError
from woodshed.testing.waiting import eventually
from woodshed.types import OpenSession

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # Ray leaves sockets and log files of its own open, and its processes are waited for by nobody.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
SMALL = {"object_store_memory": 100 * 2**20}
for module in (scripted_nodes, scripted_servers):
    ray.cloudpickle.register_pickle_by_value(module)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a head without a core for replicas, and two nodes with room for one each."""
    settings = {
        "memory_monitor_refresh_ms": 0,
        "prestart_worker_first_driver": False,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 8,
    }
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": settings, **SMALL}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **SMALL)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        """Stand in for the check of patches, which a scripted vLLM has not."""

    monkeypatch.setattr(supervisor_module, "check_patches", nothing)


def model(folder: Path, replicas: int) -> ServedModel:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return ServedModel(
        name="policy", path=str(folder), trainable=True, replicas=replicas, kv_cache_gib=0.01, tool_call_parser=None
    )


def adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(folder.name.encode() * 1000)
    return folder


@dataclass
class Nodes:
    """What an engine has of a cluster, without its gateway."""

    supervisor: Supervisor
    slots: LoraSlots
    said: list[str] = field(default_factory=list)

    @property
    def processes(self) -> NodeProcesses:
        assert isinstance(self.supervisor._processes, NodeProcesses)
        return self.supervisor._processes

    async def ask(self, number: int, method: str, *arguments: Any) -> Any:
        return await getattr(self.processes._nodes[f"policy#{number}"].actor, method).remote(*arguments)

    async def told(self) -> list[dict[str, Any]]:
        return [await self.ask(number, "told") for number in range(1, len(self.supervisor.servers) + 1)]


@asynccontextmanager
async def on_nodes(cluster: Any, home: Path, replicas: int = 2, **settings: Any) -> AsyncIterator[Nodes]:
    said: list[str] = []
    async with aiohttp.ClientSession() as http:
        with joined(cluster.address, processes=0) as ray_cluster:

            def make(servers: Any, exited: Any) -> NodeProcesses:
                return NodeProcesses(
                    servers, exited, cluster=ray_cluster, progress=said.append, actor=ScriptedNode, **settings
                )

            made = Supervisor([model(home / "model", replicas)], home, http, said.append, processes=make)
            slots = LoraSlots(list(made.servers.values()), http, said.append)
            try:
                await made.start()
                yield Nodes(made, slots, said)
            finally:
                await made.stop()


async def test_a_swap_sends_the_bytes_once_and_each_node_reads_its_own_copy(cluster: Any, tmp_path: Path) -> None:
    async with on_nodes(cluster, tmp_path) as nodes:
        await nodes.slots.swap(1, adapter(tmp_path / "one"))
        first = await nodes.told()
        put = nodes.processes.parcels.put
        await nodes.slots.swap(2, adapter(tmp_path / "two"))

        async def old_files_are_gone() -> bool:
            return [one["files"] for one in await nodes.told()] == [["files/policy@2/adapter_model.safetensors"]] * 2

        await eventually(old_files_are_gone, "each node has the files of the version in use alone")
        places = {server.node for server in nodes.supervisor.servers.values()}
        scratch = [Path(one["read"]["policy@1"][0]).parents[1] for one in first]

    assert put == 1
    assert [one["loaded"] for one in first] == [["policy@1"]] * 2
    assert [one["read"]["policy@1"][1]["adapter_model.safetensors"] for one in first] == [b"one" * 1000] * 2
    folders = {one["read"]["policy@1"][0] for one in first}
    assert len(folders) == len(places) == 2 and not any(str(tmp_path) in folder for folder in folders)
    assert not any(folder.exists() for folder in scratch)


async def test_a_node_that_refuses_keeps_a_version_from_all_and_no_file_is_left(cluster: Any, tmp_path: Path) -> None:
    async with on_nodes(cluster, tmp_path) as nodes:
        await nodes.slots.swap(1, adapter(tmp_path / "one"))
        await nodes.ask(2, "refuse", 1000)
        with pytest.raises(EngineError, match=r"'policy#2' did not load adapter version 2.*no replica of 'policy'"):
            await nodes.slots.swap(2, adapter(tmp_path / "two"))

        async def only_the_old_one() -> bool:
            told = await nodes.told()
            return [one["loaded"] for one in told] == [["policy@1"]] * 2 and [one["files"] for one in told] == [
                ["files/policy@1/adapter_model.safetensors"]
            ] * 2

        await eventually(only_the_old_one, "version 2 and its files are gone everywhere")
        assert nodes.slots.version == 1


async def test_a_vllm_that_dies_starts_again_on_its_node_with_the_newest_weights(cluster: Any, tmp_path: Path) -> None:
    async with on_nodes(cluster, tmp_path) as nodes:
        await nodes.slots.swap(1, adapter(tmp_path / "one"))
        server = nodes.supervisor.servers["policy#1"]
        place, loaded_when_up = server.node, []
        prepare, generation = server.prepare, server.generation
        assert prepare is not None

        async def watched() -> None:
            await prepare()
            loaded_when_up.append(((await nodes.ask(1, "told"))["loaded"], server.is_ready))

        server.prepare = watched
        nodes.processes.stop(server, hard=True)
        await eventually(lambda: server.generation == generation + 1, "it was started again")

        assert (server.node, server.is_ready) == (place, True)
        assert loaded_when_up == [(["policy@1"], False)]
        assert any("died (exit status -9); starting it again" in line for line in nodes.said)


async def test_more_replicas_than_the_cluster_has_room_for_are_refused_and_say_what_is_missing(
    cluster: Any, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"no room for 3 replicas: CPU: 3 asked \(3 at 1\), 3 nodes have 2 \(1 at"):
        async with on_nodes(cluster, tmp_path, 3, placed_within_s=0.5):
            pass
    async with on_nodes(cluster, tmp_path / "after") as nodes:  # what was asked for is given back
        assert [server.is_ready for server in nodes.supervisor.servers.values()] == [True, True]


async def test_a_node_with_another_model_is_refused_when_it_joins(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved = NodeProcesses._reserved

    async def changed_since(self: NodeProcesses) -> Any:
        reservation = await reserved(self)
        # As if the node's disk held another model than the engine's: here both are one folder.
        (tmp_path / "model" / "config.json").write_text('{"changed": true}')
        return reservation

    monkeypatch.setattr(NodeProcesses, "_reserved", changed_since)
    with pytest.raises(EngineError, match=r"'policy#\d' cannot be served: node .* has another model in '.*/model'"):
        async with on_nodes(cluster, tmp_path):
            pass


async def test_a_cluster_that_is_not_there_is_said_with_the_next_step() -> None:
    with pytest.raises(EngineError, match=r"'127\.0\.0\.1:9' cannot be joined.*`woodshed ray up` begins one"):
        with joined("127.0.0.1:9", processes=1):
            pass


async def test_calls_on_a_node_that_is_killed_are_answered_by_another_and_the_replica_comes_back_with_a_node(
    cluster: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    made: list[Supervisor] = []
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def report(kind: str, message: str) -> None:
        said.append(message)
        if kind == "ready":
            ready.set_result(message)

    def scripted(*arguments: Any, processes: Any) -> Supervisor:
        def make(servers: Any, exited: Any) -> Any:
            return processes(servers, exited, actor=ScriptedNode, placed_within_s=2.0)

        made.append(Supervisor(*arguments, processes=make))
        return made[0]

    config = EngineConfig(home=tmp_path, models=(model(tmp_path / "m", 2),), api_key="key", ray=cluster.address)
    running = asyncio.create_task(run_engine(config, report, scripted))
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    async with EngineClient(ready.result() if ready.done() else running.result() or "", "key") as client:
        try:
            async with contextlib.AsyncExitStack() as stack:
                agents = []
                for number in range(8):
                    grant = await client.open_session(OpenSession(rollout_id=f"r{number}", policy="policy"))
                    agent = openai.AsyncOpenAI(base_url=client.openai_base_url, api_key=grant.secret, max_retries=0)
                    agents.append(await stack.enter_async_context(agent))

                async def ask(agent: Any) -> str:
                    messages: Any = [{"role": "user", "content": "?"}]
                    answer = await agent.chat.completions.create(model="policy", messages=messages)
                    return str(answer.choices[0].message.content)

                homes = [await ask(agent) for agent in agents]
                nodes = made[0]._processes._nodes  # type: ignore[attr-defined]
                before = await nodes["policy#1"].actor.told.remote()
                await nodes["policy#1"].actor.hold.remote()
                asking = [asyncio.ensure_future(ask(agent)) for agent in agents]

                async def all_there() -> bool:
                    told = await nodes["policy#1"].actor.told.remote()
                    return bool(told["asked"] == before["asked"] + homes.count("policy#1"))

                await eventually(all_there, "its calls are in flight on the node")
                node_id = made[0].servers["policy#1"].node or ""
                victim = next(node for node in cluster.worker_nodes if f"({node.node_id[:8]})" in node_id)
                since = len(said)
                cluster.remove_node(victim, allow_graceful=False)
                answers = await asyncio.gather(*asking)
                told = "'policy#1' is left out: no node has room for it: CPU: 1 asked"
                await eventually(lambda: any(told in line for line in said[since:]), "it is said")
                (model_health,) = (await client.health()).models
                states = [(replica.name, replica.state) for replica in model_health.replicas]
                again = [await ask(agent) for agent in agents]
                cluster.add_node(num_cpus=1, **SMALL)

                async def back() -> bool:
                    (now,) = (await client.health()).models
                    return [replica.state for replica in now.replicas] == ["ready", "ready"]

                await eventually(back, "the replica is placed on the new node", 120)
                health = await client.health()
                sealed = [await client.seal(f"r{number}") for number in range(8)]
        finally:
            await client.shutdown()
            await running

    assert set(homes) == {"policy#1", "policy#2"}
    assert set(answers) == set(again) == {"policy#2"}
    assert states == [("policy#1", "starting"), ("policy#2", "ready")]
    assert [call.error for one in sealed for call in one.calls] == [None] * 24
    assert health.failed_calls == 0 and health.models[0].restarts >= 1
    assert health.models[0].replicas[0].node not in (None, node_id)
