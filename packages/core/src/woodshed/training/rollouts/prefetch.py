"""Batches of coming steps, sampled while a step is judged and trained, and never from weights older than allowed."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, TypeVar

from woodshed.errors import WoodshedError

Sampled = TypeVar("Sampled")


class PrioritySemaphore:
    """Places for rollouts in flight. A free one goes to the earliest step that waits for one."""

    def __init__(self, count: int) -> None:
        """Have `count` free places."""
        self._free = count
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def taken(self, step: int) -> AsyncIterator[None]:
        """Hold a place for the block."""
        await self._take(step)
        try:
            yield
        finally:
            self._give()

    async def _take(self, step: int) -> None:
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (step, next(self._numbers), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give()  # handed over in the moment of the cancellation
            raise

    def _give(self) -> None:
        while self._waiting:
            _, _, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class Prefetch(Generic[Sampled]):
    """Samples the batch of step k while the steps from k - `max_staleness` on are trained.

    Weights are a step older with every step that is taken meanwhile. A batch is begun no sooner than `max_staleness`
    steps before its own, so none of its tokens can be staler than that when it is trained.
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
        """Return the batch of a step, when all steps before it have been taken; later ones may begin now."""
        for later in range(step, min(step + self._max_staleness + 1, self._steps)):
            if later not in self._tasks:
                self._tasks[later] = asyncio.create_task(self._sample(later))
        try:
            with one_error():
                return await self._tasks[step]
        finally:
            if self._tasks[step].done():
                del self._tasks[step]

    async def stop(self) -> None:
        """Cancel what is being sampled, and wait until it has ended."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()


@contextmanager
def one_error() -> Iterator[None]:
    """Raise the first of woodshed's own errors in place of the group that many rollouts at once make of one."""
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
