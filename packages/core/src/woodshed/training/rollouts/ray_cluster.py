"""Ray's side of rollout workers: connect to a cluster, start actors on it, ask them, and say what is missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import woodshed
from woodshed.engine.client.ray_cluster import knock
from woodshed.errors import ConfigError, WorkerError
from woodshed.training.rollouts.actor import actor_class
from woodshed.training.rollouts.parcel import missing_module

RESOURCES_S = 30.0
"""How long a worker may wait for the cluster's resources before it is said which one is missing."""
_START_S = 600.0
"""How long workers may take where resources are there: Ray may make an environment for them first."""
_REASON = 400


class WorkerLost(Exception):
    """A worker has ended; the message says how."""


@dataclass(kw_only=True, slots=True, eq=False)
class Worker:
    """One Ray actor that runs rollouts."""

    number: int
    actor: Any
    node: str = "a node"
    running: int = 0
    """How many rollouts it runs."""
    is_reserved: bool = False
    """Whether it takes no further rollouts, because one is to run there alone."""
    is_lost: bool = False


@dataclass(kw_only=True, slots=True)
class Cluster:
    """A Ray cluster, and how workers are started on it."""

    ray: Any
    """The module; nothing but a run with workers imports it."""
    parcel: bytes
    """What `worker_parcel` returned."""
    count: int
    address: str
    runtime_env: dict[str, Any] | None
    cpus: float
    """CPUs that each worker reserves."""
    rollouts_each: int
    """Rollouts that each worker runs at a time."""
    engine_url: str | None = None
    """The engine that workers must reach; None before it is known."""
    _is_ours: bool = False
    _options: dict[str, Any] = field(default_factory=dict)
    _made: list[Worker] = field(default_factory=list)
    _scheduled: set[int] = field(default_factory=set)
    _sent: Any = None

    def join(self) -> None:
        """Connect this process to the cluster, unless it is connected already.

        Raises:
            ConfigError: there is no such cluster, or it cannot be joined like this.
        """
        self._options = {"num_cpus": self.cpus, "max_restarts": 0}
        if self.ray.is_initialized():
            self._join_as_it_is()
        else:
            own: dict[str, Any] = {"include_dashboard": False} if self.address == "local" else {}
            try:
                knock(self.address)
                self.ray.init(
                    address=self.address, runtime_env=self.runtime_env, logging_level=logging.WARNING, **own
                )  # fmt: skip
            except ConnectionError as error:
                raise ConfigError(
                    f"no Ray cluster answers at RayWorkers.address={self.address!r} ({_short(error)}). Start one with "
                    "'ray start --head' and join it from each node with 'ray start --address=HOST:PORT', or use "
                    "address='local' for workers on this machine"
                ) from None
            except (ValueError, TypeError) as error:
                raise ConfigError(f"Ray refuses what RayWorkers asks for: {_short(error)}") from error
            except Exception as error:  # Ray raises bare ones where a cluster does not start or is of another version
                raise WorkerError(f"the Ray cluster at {self.address!r} cannot be joined: {_short(error)}") from error
            self._is_ours = True
        self._sent = self.ray.put(self.parcel)

    def _join_as_it_is(self) -> None:
        connected = self.ray.get_runtime_context().gcs_address
        if self.address not in ("auto", connected):
            raise ConfigError(
                f"RayWorkers.address is {self.address!r}, but this process is connected to the Ray cluster at "
                f"{connected!r}; leave the address out, or call ray.shutdown() first"
            )
        env = self.runtime_env or {}
        paths = [p for p in (env.get("working_dir"), *env.get("py_modules", ())) if p and "://" not in str(p)]
        if paths:
            raise ConfigError(
                f"RayWorkers.runtime_env sends {paths}, which Ray takes from `ray.init` only, and this process has "
                "called that already: ray.init(runtime_env=...) with the same value"
            )
        self._options["runtime_env"] = self.runtime_env

    async def start_all(self) -> list[Worker]:
        """Start all workers and return them.

        Raises:
            ConfigError: a worker cannot import what the agent needs.
            WorkerError: the cluster lacks a resource, a worker ended, or has another woodshed.
        """
        is_short = self._is_short()
        starting = [asyncio.create_task(self.start(number)) for number in range(1, self.count + 1)]
        try:
            await self._first_failure(starting, RESOURCES_S)
            if is_short and (waiting := self.count - len(self._scheduled)):
                raise WorkerError(self.missing(waiting))
            await self._first_failure(starting, _START_S)
            if any(not task.done() for task in starting):
                raise WorkerError(
                    f"{sum(not t.done() for t in starting)} of {self.count} rollout workers did not start in "
                    f"{RESOURCES_S + _START_S:g} s. {self.missing(self.count - len(self._scheduled))}"
                )
        finally:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
        return [task.result() for task in starting]

    async def _first_failure(self, starting: Sequence[asyncio.Task[Worker]], timeout_s: float) -> None:
        done, _ = await asyncio.wait(starting, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    def _is_short(self) -> bool:
        """Whether the cluster lacks CPUs for all workers, as far as can be told before they are started."""
        nodes = [node["Resources"].get("CPU", 0.0) for node in self.ray.nodes() if node["Alive"]]
        fit = sum(int(cpus / self.cpus) for cpus in nodes) if self.cpus else self.count
        free = self.ray.available_resources().get("CPU", 0.0)
        return bool(fit < self.count or free < self.cpus * self.count)

    def is_scheduled(self, number: int) -> bool:
        """Whether a worker has the resources that it asks for, and its process runs."""
        return number in self._scheduled

    def missing(self, waiting: int) -> str:
        """Say which resource `waiting` workers wait for."""
        nodes = sum(bool(node["Alive"]) for node in self.ray.nodes())
        total, free = (r.get("CPU", 0.0) for r in (self.ray.cluster_resources(), self.ray.available_resources()))
        return (
            f"{waiting} of {self.count} rollout workers wait for a resource that is missing: CPU. Each takes "
            f"cpus_per_worker={self.cpus:g}; the cluster has {total:g} on {nodes} nodes, {free:g} of them free. Start "
            "fewer workers (RayWorkers.count), ask for less, or add nodes first: ray start --address=HOST:PORT"
        )

    async def start(self, number: int) -> Worker:
        """Start one worker, which waits for resources without limit, and check it.

        Raises:
            ConfigError, WorkerError: as `start_all`.
        """
        actor = self.ray.remote(actor_class()).options(**self._options).remote()
        self._scheduled.discard(number)
        self._made.append(worker := Worker(number=number, actor=actor))
        try:
            found = await self.ask(worker, "describe")
            self._scheduled.add(number)
            worker.node = f"node {found['node']}"
            self._check_versions(worker, found["versions"])
            problem = await self.ask(worker, "load", self._sent, self.rollouts_each)
        except WorkerLost as lost:
            raise WorkerError(f"rollout worker {number} could not be started on {worker.node}: {lost}") from None
        if problem is not None:
            if "missing" in problem:
                raise ConfigError(f"rollout worker {number} on {worker.node}: {missing_module(problem['missing'])}")
            raise ConfigError(
                f"the rollout function cannot be loaded in rollout worker {number} on {worker.node}: "
                f"{problem['error']}. If the program itself holds it, move it with all it uses into a module that the "
                f"workers can import. There it was:\n{problem['text']}"
            )
        if self.engine_url is not None:
            await self.check_reach(worker)
        return worker

    def _check_versions(self, worker: Worker, theirs: dict[str, str | None]) -> None:
        ours: dict[str, str] = {"woodshed": woodshed.__version__}
        for found in metadata.distributions():
            if (name := str(found.metadata["Name"])).startswith("woodshed-") and name in theirs:
                ours[name] = found.version
        for name, version in ours.items():
            if theirs[name] != version:
                raise WorkerError(
                    f"{worker.node} has {name} {theirs[name] or '(not installed)'}, and this process {version}; both "
                    f"must be the same: install {name} {version} there, or let Ray do it with RayWorkers(runtime_env="
                    f"{{'pip': ['{name}=={version}']}})"
                )

    async def check_reach(self, worker: Worker) -> None:
        """Raise WorkerError where a worker does not reach the engine."""
        try:
            problem = await self.ask(worker, "reach", f"{self.engine_url}/woodshed/v1/health")
        except WorkerLost as lost:
            problem = str(lost)
        if problem is not None:
            raise WorkerError(
                f"rollout worker {worker.number} on {worker.node} does not reach the engine at {self.engine_url} "
                f"({problem}). One that listens on loopback serves its own machine only: start the engine with "
                "'woodshed engine start --host ADDRESS ...', and use Engine.connect with an address that every node "
                "reaches (docs/remote_engine.md)"
            )

    async def ask(self, worker: Worker, method: str, *given: Any, within_s: float | None = None) -> Any:
        """Return what a worker answers. If this is cancelled, so is the work.

        Raises:
            WorkerLost: the worker has ended.
            WorkerError: our own code failed there.
            TimeoutError: it did not answer within `within_s` seconds.
        """
        errors = self.ray.exceptions
        ref = getattr(worker.actor, method).remote(*given)
        answer = asyncio.wrap_future(ref.future())
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to ask
        try:
            done, _ = await asyncio.wait({answer}, timeout=within_s)
        except asyncio.CancelledError:
            self.ray.cancel(ref)
            raise
        if not done:
            self.ray.cancel(ref)
            raise TimeoutError
        try:
            return answer.result()
        except errors.RayTaskError as error:
            raise WorkerError(f"a rollout worker failed: {_short(error)}") from error
        except errors.RayError as error:
            raise WorkerLost(_short(error)) from error

    def kill(self, worker: Worker) -> None:
        """End a worker's process at once."""
        with suppress(Exception):  # it, or its node, is gone
            self.ray.kill(worker.actor, no_restart=True)

    def leave(self) -> None:
        """End all workers, and leave the cluster if this run has joined it."""
        for worker in self._made:
            self.kill(worker)
        if self._is_ours:
            self.ray.shutdown()


def _short(error: BaseException) -> str:
    """Return Ray's message without its table of ids, on one line."""
    lines = [line for line in str(error).splitlines() if not line.startswith("\t")]
    text = " ".join(" ".join(lines).split())
    return text if len(text) <= _REASON else f"{text[:_REASON]} …"
