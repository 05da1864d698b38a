"""Prefetch: sample the groups of later steps while a step is judged and trained, within the staleness limit."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, Generic, TypeVar

from woodshed.errors import WoodshedError

Sampled = TypeVar("Sampled")


class PrioritySemaphore:
    """A semaphore for rollouts in flight. A free permit goes to the earliest step that is waiting."""

    def __init__(self, count: int, *, within: PrioritySemaphore | None = None) -> None:
        """Start with `count` permits. Whoever holds one also holds a permit of `within`."""
        self._free = count
        self._within = within
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def acquired(self, step: int) -> AsyncIterator[None]:
        """Hold a permit for the block."""
        await self._acquire(step)
        try:
            async with self._within.acquired(step) if self._within is not None else nullcontext():
                yield
        finally:
            self._release()

    async def _acquire(self, step: int) -> None:
        if self._free:
            self._free -= 1
            return
        permit = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (step, next(self._numbers), permit))
        try:
            await permit
        except asyncio.CancelledError:
            if permit.done() and not permit.cancelled():
                self._release()  # granted at the moment of the cancellation
            raise

    def _release(self) -> None:
        while self._waiting:
            _, _, permit = heapq.heappop(self._waiting)
            if not permit.done():
                permit.set_result(None)
                return
        self._free += 1


class Prefetch(Generic[Sampled]):
    """Samples the groups of step k while steps k - `max_staleness` to k - 1 are trained.

    Every step trained in the meantime makes the sampling weights one step older. Sampling for step k starts at most
    `max_staleness` steps earlier, so no token is staler than that when it is trained.
    """

    def __init__(
        self, sample: Callable[[int], Coroutine[Any, Any, Sampled]], *, steps: int, max_staleness: int
    ) -> None:
        """Prepare; nothing is sampled yet."""
        self._sample = sample
        self._steps = steps
        self._max_staleness = max_staleness
        self._tasks: dict[int, asyncio.Task[Sampled]] = {}

    async def take(self, step: int) -> Sampled:
        """Return the groups of `step`, once all steps before it were taken, and start sampling for later ones."""
        for later in range(step, min(step + self._max_staleness + 1, self._steps)):
            if later not in self._tasks:
                self._tasks[later] = asyncio.create_task(self._sample(later))
        try:
            with unwrapped_error():
                return await self._tasks[step]
        finally:
            if self._tasks[step].done():
                del self._tasks[step]

    async def stop(self) -> None:
        """Cancel all sampling and wait until it has ended."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()


@contextmanager
def unwrapped_error() -> Iterator[None]:
    """Raise the first of woodshed's own errors instead of the `ExceptionGroup` that contains it."""
    try:
        yield
    except ExceptionGroup as group:
        if (own := _own_error(group)) is None:
            raise
        raise own from group


def _own_error(group: ExceptionGroup[Exception]) -> WoodshedError | None:
    own: WoodshedError | ExceptionGroup[WoodshedError] | None = group.subgroup(WoodshedError)
    while isinstance(own, ExceptionGroup):
        own = own.exceptions[0]
    return own
