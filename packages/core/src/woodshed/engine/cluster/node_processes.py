"""The processes of vLLM servers on a cluster's nodes, as the supervisor starts and ends them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import ray

from woodshed.engine.cluster import node_report
from woodshed.engine.cluster.join import RayCluster
from woodshed.engine.cluster.node_server import NodeServer
from woodshed.engine.cluster.parcels import Parcels
from woodshed.engine.cluster.reservation import PLACED_WITHIN_S, Reservation, wanted
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.server_processes import Exited, ReportProgress
from woodshed.errors import EngineError

_ASK_AGAIN_S = 1.0
_LOST_FOR_GOOD_S = 600.0
_CLOSED_WITHIN_S = 10.0
# Sent as code: a node need not have it, nor woodshed at all, to say that it has not.
ray.cloudpickle.register_pickle_by_value(node_report)


@dataclass(kw_only=True, slots=True)
class _Node:
    """The actor of one replica, and what is known of its node."""

    actor: Any
    name: str
    """Its address and the first digits of its id in the cluster."""
    ended: bool = False
    """Whether vLLM has ended there since it was last started."""
    following: asyncio.Task[None] | None = None
    paths: dict[str, str] = field(default_factory=dict)
    """Setting of the model → its path on the node."""


class NodeProcesses:
    """Starts each server on a node that Ray finds for it; a node that is lost ends its servers."""

    def __init__(
        self,
        servers: Sequence[ModelServer],
        exited: Exited,
        *,
        cluster: RayCluster,
        progress: ReportProgress,
        placed_within_s: float = PLACED_WITHIN_S,
        actor: type[NodeServer] = NodeServer,
    ) -> None:
        """Prepare; places are reserved with the first start.

        Args:
            servers: All servers of the engine.
            exited: Told of each server whose process has ended, or whose node is lost.
            cluster: Where they run.
            progress: Told where each replica is, and of those that no node takes.
            placed_within_s: Seconds after which a lack of room is said.
            actor: What runs on each server's node.
        """
        self._servers = list(servers)
        self._exited = exited
        self._cluster = cluster
        self._progress = progress
        self._placed_within_s = placed_within_s
        self._actor = actor
        self._reserving = asyncio.Lock()
        self._reservation: Reservation | None = None
        self._expected: dict[str, Any] = {}
        self._nodes: dict[str, _Node] = {}
        self.parcels = Parcels()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        for server in servers:
            server.files = NodeFiles(self, server)

    async def start(self, server: ModelServer) -> int:
        """Start a server on its node; one that has none is placed first."""
        node = self._nodes.get(server.name) or await self._place(server)
        node.ended = False
        try:
            server.url, server.key, pid = await node.actor.start.remote(node.paths)
        except ray.exceptions.RayTaskError as error:
            raise EngineError(f"vLLM for {server.name!r} cannot be started on {node.name}: {error.cause}") from error
        except ray.exceptions.RayError as error:
            self._lose(server, node, error)
            raise EngineError(f"{server.name!r} was lost with its node {node.name} as it started") from error
        server.pid = None if node.ended else pid
        return int(pid)

    def stop(self, server: ModelServer, *, hard: bool) -> None:
        """Ask a server's process to end, or kill it."""
        if (node := self._nodes.get(server.name)) is not None:
            node.actor.stop.remote(hard)

    def alone(self, server: ModelServer) -> AbstractAsyncContextManager[Any]:
        """Return nothing to wait for: every server has GPUs of its own."""
        return contextlib.nullcontext()

    async def close(self) -> None:
        """End all servers and give their places back."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        closing = [asyncio.ensure_future(_answer(node.actor.close.remote())) for node in self._nodes.values()]
        if closing:
            await asyncio.wait(closing, timeout=_CLOSED_WITHIN_S)
        for node in self._nodes.values():
            ray.kill(node.actor)
        if self._reservation is not None:
            self._reservation.remove()

    async def call(self, server: ModelServer, method: str, *arguments: Any) -> Any:
        """Ask the actor of a server; a lost one is told of at once.

        Raises:
            EngineError: The node refuses.
            aiohttp.ClientConnectionError: The node is lost, as a vLLM that cannot be reached.
        """
        node = self._nodes.get(server.name)
        if node is None:
            raise aiohttp.ClientConnectionError(f"{server.name!r} is on no node")
        try:
            return await getattr(node.actor, method).remote(*arguments)
        except ray.exceptions.RayTaskError as error:
            raise EngineError(f"node {node.name} cannot {method} files for {server.name!r}: {error.cause}") from error
        except ray.exceptions.RayError as error:
            self._lose(server, node, error)
            raise aiohttp.ClientConnectionError(f"{server.name!r} was lost with its node {node.name}") from error

    async def _place(self, server: ModelServer) -> _Node:
        """Find a node for a server, check it and start an actor there.

        Raises:
            EngineError: No node has room, or the one that has is refused.
        """
        reservation = await self._reserved()
        report = await self._found(server, reservation)
        if (why := node_report.refusal(self._expected, report)) is not None:
            raise EngineError(f"{server.name!r} cannot be served: {why}")
        ip = str(report["ip"])
        sharing = await asyncio.to_thread(reservation.on_the_node_of, server.name)
        node = _Node(
            actor=ray.remote(self._actor)
            .options(max_concurrency=100, **reservation.at(server.name))
            .remote(server.model, server.replica, host="127.0.0.1" if ip == self._cluster.ip else ip, sharing=sharing),
            name=f"{ip} ({str(report['node'])[:8]})",
        )
        server.node = node.name
        self._nodes[server.name] = node
        try:
            node.paths = {
                setting: await server.files.bring(Path(path), setting)
                for setting in ("adapter", "chat_template")
                if (path := getattr(server.model, setting)) is not None
            }
        except aiohttp.ClientError as error:
            raise EngineError(str(error)) from error
        node.following = self._spawn(self._follow(server, node))
        self._progress(f"{server.name!r} is placed on node {node.name}")
        return node

    async def _reserved(self) -> Reservation:
        async with self._reserving:
            if self._reservation is None:
                folders = {s.model.path for s in self._servers if not s.model.is_hub_name()}
                self._expected = await asyncio.to_thread(node_report.node_report, sorted(folders))
                places = {s.name: wanted(s.model, gpu=self._cluster.gpu) for s in self._servers}
                self._progress(f"asking the Ray cluster {self._cluster.address} for {len(places)} places")
                reservation = Reservation(places)
                try:
                    await reservation.ready(self._placed_within_s)
                except BaseException:
                    reservation.remove()
                    raise
                self._reservation = reservation
            return self._reservation

    async def _found(self, server: ModelServer, reservation: Reservation) -> Mapping[str, Any]:
        """Return the report of the node where a server has its place; where it lost it, once it has one again."""
        finding = asyncio.ensure_future(self._asked_until_answered(server, reservation))
        try:
            if not (await asyncio.wait((finding,), timeout=self._placed_within_s))[0]:
                missing = await asyncio.to_thread(reservation.missing, server.name)
                self._progress(
                    f"{server.name!r} is left out: no node has room for it: {missing}. It comes back with one"
                )
                if not (await asyncio.wait((finding,), timeout=_LOST_FOR_GOOD_S))[0]:
                    raise EngineError(f"no node had room for {server.name!r} for {_LOST_FOR_GOOD_S:.0f} s: {missing}")
            return finding.result()
        finally:
            finding.cancel()

    async def _asked_until_answered(self, server: ModelServer, reservation: Reservation) -> Mapping[str, Any]:
        ask = ray.remote(node_report.node_report).options(max_retries=0, **reservation.beside(server.name))
        while True:
            try:
                answer: Mapping[str, Any] = await ask.remote(list(self._expected["models"]))
                return answer
            except ray.exceptions.RayTaskError as error:
                raise EngineError(f"a node cannot say what it has: {error.cause}") from error
            except ray.exceptions.RayError:  # its death is known here later than its place is taken
                await asyncio.sleep(_ASK_AGAIN_S)

    async def _follow(self, server: ModelServer, node: _Node) -> None:
        """Follow a node's events until the node is lost."""
        while True:
            try:
                event = await node.actor.next_event.remote()
            except ray.exceptions.RayError as error:
                self._lose(server, node, error)
                return
            if "memory_mb" in event:
                server.node_memory_mb = event["memory_mb"]
            else:
                node.ended = True
                await asyncio.to_thread(_append, server.log, event["log"])
                server.pid = None
                self._exited(server, event["exited"])

    def _lose(self, server: ModelServer, node: _Node, error: Exception) -> None:
        """Count a node as lost for a server; what may be left of it there is ended."""
        if self._closing or self._nodes.get(server.name) is not node:
            return
        del self._nodes[server.name]
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(node.actor)
        server.pid = None
        self._exited(server, f"node {node.name} is lost: {_reason(error)}")

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class NodeFiles:
    """The files of one server's node: copies of the engine's, in a folder that no other machine sees."""

    def __init__(self, processes: NodeProcesses, server: ModelServer) -> None:
        """Send the files of `server` to where `processes` has placed it."""
        self._processes = processes
        self._server = server

    async def bring(self, path: Path, name: str) -> str:
        """Return where a folder or a file of this machine is on the node, once it is there under a name."""
        parcel = await self._processes.parcels.of(path)
        folder = await self._processes.call(self._server, "write", name, parcel)
        return str(Path(folder) / path.name) if path.is_file() else str(folder)

    async def drop(self, name: str) -> None:
        """Remove what was brought under a name."""
        with contextlib.suppress(aiohttp.ClientError, EngineError):
            await self._processes.call(self._server, "remove", name)


async def _answer(reference: Awaitable[Any]) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        await reference


def _append(log: Path, text: str) -> None:
    with log.open("a") as sink:
        sink.write(text)


def _reason(error: Exception) -> str:
    """Return what Ray says of a death in one line."""
    text = " ".join(str(error).split())
    # What stands before it are ids.
    return text[max(0, text.find("The actor died because")) :][:400] or type(error).__name__
