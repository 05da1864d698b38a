"""Rollout workers as the training sees them: each rollout gets a place on one, and a lost one's are run again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from woodshed.capture import AgentSide, Rollout, agent_side, note_late_calls
from woodshed.errors import RolloutTimeout, WoodshedError, WorkerError
from woodshed.training.rollouts.cause import rollout_failure
from woodshed.training.rollouts.parcel import scenario_parcel
from woodshed.training.rollouts.ray_cluster import RESOURCES_S, Cluster, Worker, WorkerLost
from woodshed.training.rollouts.worker import Returned
from woodshed.types import Status, Trajectory

T = TypeVar("T")
TRIES = 3
"""How often a rollout is run whose worker ends; the last time with no other rollout beside it."""
_ANSWER_S = 15.0
"""How long after a rollout's time limit its worker may take to say that it is over."""
_END_S = 10.0


class RayPool:
    """Rollout workers; a context manager that starts and ends them."""

    def __init__(self, cluster: Cluster, *, warn: Callable[[str], None]) -> None:
        """Prepare; nothing is started yet. `warn` is told of workers that are lost."""
        self.cluster = cluster
        self._warn = warn
        self._workers: list[Worker] = []
        self._starting: dict[int, asyncio.Task[None]] = {}
        """Workers by number that are started in place of lost ones."""
        self._hopeless: set[int] = set()
        """Those of them that cannot be started, or wait for resources."""
        self._changed = asyncio.Event()
        self._failed: WorkerError | None = None
        self._said: dict[tuple[str, str], int] = {}
        """Line of the log → number of the worker that said it first: another one's is the same news."""

    @property
    def room(self) -> int:
        """How many rollouts can run at a time."""
        return self.cluster.count * self.cluster.rollouts_each

    async def __aenter__(self) -> Self:
        """Start all workers.

        Raises:
            ConfigError: there is no such cluster, or a worker cannot import what the agent needs.
            WorkerError: a worker could not be started, or has another woodshed.
        """
        self.cluster.join()
        try:
            self._workers = await self.cluster.start_all()
        except BaseException:
            self.cluster.leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers; what they have to say until then is kept."""
        try:
            starting = list(self._starting.values())
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            if ending := [asyncio.create_task(self._end(worker)) for worker in self._live()]:
                await asyncio.wait(ending)
        finally:
            self.cluster.leave()

    async def _end(self, worker: Worker) -> None:
        with suppress(WorkerLost, WorkerError, TimeoutError):
            self._take(worker, await self.cluster.ask(worker, "end", within_s=_END_S))

    async def reach(self, url: str) -> None:
        """Check that every worker, also one that is started later, reaches the engine.

        Raises:
            WorkerError: one does not.
        """
        self.cluster.engine_url = url
        await asyncio.gather(*(self.cluster.check_reach(worker) for worker in self._workers))

    async def practise(self, run: Callable[[Seat], Awaitable[Trajectory]]) -> Trajectory:
        """Return the trajectory of a rollout that `run` runs on a worker. If the worker is lost, it is run again.

        Raises:
            WorkerError: no worker is left, and none can be started.
        """
        lost = 0
        while True:
            is_last = lost == TRIES - 1
            async with self._place(alone=is_last) as worker:
                seat = Seat(self, worker, is_last=is_last)
                trajectory = await run(seat)
            lost += seat.is_lost
            if not seat.goes_on or lost == TRIES:
                return trajectory

    @asynccontextmanager
    async def _place(self, *, alone: bool) -> AsyncIterator[Worker]:
        """Hold a place on the worker that runs the fewest rollouts; with no other rollout on it if `alone`."""
        worker = await self._until(lambda: self._least_busy(alone))
        worker.is_reserved = alone
        worker.running += 1
        try:
            if alone:
                await self._until(lambda: worker if worker.running == 1 or worker.is_lost else None)
            yield worker
        finally:
            worker.running -= 1
            worker.is_reserved = worker.is_reserved and not alone
            self._notify()

    def _least_busy(self, alone: bool) -> Worker | None:
        if self._failed is not None:
            raise self._failed
        each = self.cluster.rollouts_each
        free = [w for w in self._live() if not w.is_reserved and (alone or w.running < each)]
        return min(free, key=lambda w: w.running, default=None)

    def _live(self) -> list[Worker]:
        return [worker for worker in self._workers if not worker.is_lost]

    async def _until(self, found: Callable[[], T | None]) -> T:
        while (value := found()) is None:
            await self._changed.wait()
        return value

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def run(self, worker: Worker, scenario: Any, rollout: Rollout, timeout_s: float) -> AgentSide:
        """Run the agent once on a worker and return how it ended.

        Raises:
            WorkerLost: the worker has ended.
            TimeoutError: it no longer answers.
        """
        parcel = scenario_parcel(self.cluster.ray.cloudpickle, scenario, rollout.scenario_id)
        details = {name: getattr(rollout, name) for name in _DETAILS}
        within_s = timeout_s + _ANSWER_S
        answer = await self.cluster.ask(worker, "run", parcel, details, timeout_s, within_s=within_s)
        side = self._take(worker, answer).side
        assert side is not None
        return side

    def _take(self, worker: Worker, answer: str) -> Returned:
        """Return what a worker sent home, and log and count here what was logged and refused there."""
        returned = Returned.model_validate_json(answer)
        note_late_calls(returned.late_calls)
        for line in returned.log:
            if self._said.setdefault((line.logger, line.message), worker.number) == worker.number:
                logging.getLogger(line.logger).log(line.level, "%s", line.message)
        return returned

    def lose(self, worker: Worker, reason: str) -> None:
        """Take a worker out, say so once, and start another one."""
        if worker.is_lost:
            return
        worker.is_lost = True
        self.cluster.kill(worker)
        self._workers = self._live()
        self._warn(
            f"rollout worker {worker.number} on {worker.node} ended while it ran {worker.running} rollouts ({reason}); "
            "they are run again, and nothing of what was lost is trained"
        )
        self._starting[worker.number] = asyncio.create_task(self._replace(worker.number))
        self._notify()

    async def _replace(self, number: int) -> None:
        """Start a worker in place of a lost one, as soon as the cluster has room for it."""
        for tries in range(1, TRIES + 1):
            starting = asyncio.create_task(self.cluster.start(number))
            try:
                await asyncio.wait({starting}, timeout=RESOURCES_S)
                if not starting.done() and not self.cluster.is_scheduled(number):
                    self._go_on_without(number, self.cluster.missing(1))
                self._workers.append(await starting)
                self._hopeless.discard(number)
                break
            except (WoodshedError, self.cluster.ray.exceptions.RayError) as error:
                if tries == TRIES:
                    self._go_on_without(number, str(error))
            finally:
                starting.cancel()
        del self._starting[number]
        self._notify()

    def _go_on_without(self, number: int, why: str) -> None:
        """Say that a worker is missing; where none is left and none can be hoped for, the run fails."""
        self._hopeless.add(number)
        left = len(self._live())
        if left or set(self._starting) - self._hopeless:
            self._warn(f"{why}. The run goes on with {left} of {self.cluster.count} rollout workers")
        else:
            self._failed = WorkerError(f"{why}. No rollout worker is left; the same command resumes the run")
            self._notify()


_DETAILS = ("base_url", "secret", "scenario_id", "rollout_id", "run_id")


class Seat:
    """A place for one rollout on one worker; see `Place`."""

    def __init__(self, pool: RayPool, worker: Worker, *, is_last: bool) -> None:
        """Hold the place. On the last try there is no other rollout on the worker."""
        self._pool = pool
        self._worker = worker
        self._is_last = is_last
        self.goes_on = False
        """Whether the rollout is to be run again."""
        self.is_lost = False
        """Whether the worker ended while the rollout ran on it."""

    async def __call__(self, scenario: Any, rollout: Rollout, timeout_s: float) -> AgentSide:
        """Run the agent on the worker; that the worker is lost is a failure of the infrastructure."""
        was_lost, error = self._worker.is_lost, WoodshedError()
        try:
            return await self._pool.run(self._worker, scenario, rollout, timeout_s)
        except WorkerLost as lost:
            self._lose(str(lost), counts=not was_lost)
            error = WorkerError(
                f"the worker that ran it ended {TRIES} times, the last time with no other rollout beside it ({lost}). "
                "Does the agent end its own process on this scenario: too much memory, os._exit, a crash in native "
                "code? Run it by hand on this scenario; the rollout is masked"
            )
        except TimeoutError:
            self._lose("it no longer answers", counts=not was_lost)
            error = RolloutTimeout(
                f"the rollout took longer than rollout_timeout_s={timeout_s:g}, and its worker no longer answered: the "
                "agent blocks its event loop. Make the rollout function sync (it then runs in a thread), or await what "
                "takes long; it is masked"
            )
        except WorkerError as failed:
            error = failed
        status: Status = "timed_out" if isinstance(error, RolloutTimeout) else "failed"
        return agent_side(rollout, status=status, error=rollout_failure(error))

    def _lose(self, reason: str, *, counts: bool) -> None:
        self._pool.lose(self._worker, reason)
        self.goes_on, self.is_lost = True, counts
