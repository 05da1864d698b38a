"""Batches are sampled ahead as far as their staleness allows and no further, and earlier steps go first."""

from __future__ import annotations

import asyncio

import pytest

import woodshed
from woodshed.testing.waiting import eventually
from woodshed.training.rollouts.prefetch import Prefetch, PrioritySemaphore


class Sampler:
    """Notes which steps have been begun, and ends each when told."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.go_on = asyncio.Event()

    async def __call__(self, step: int) -> int:
        self.begun.append(step)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.append(step)
            raise
        return step


@pytest.mark.parametrize(("max_staleness", "begun"), [(0, [0]), (1, [0, 1]), (2, [0, 1, 2]), (9, [0, 1, 2, 3])])
async def test_no_batch_begins_more_than_max_staleness_steps_before_its_own(
    max_staleness: int, begun: list[int]
) -> None:
    sampler = Sampler()
    prefetch = Prefetch(sampler, steps=4, max_staleness=max_staleness)
    first = asyncio.create_task(prefetch.take(0))
    await asyncio.sleep(0.01)
    assert sampler.begun == begun

    sampler.go_on.set()
    taken = [await first, await prefetch.take(1), await prefetch.take(2), await prefetch.take(3)]

    assert taken == [0, 1, 2, 3]
    assert sampler.begun == [0, 1, 2, 3]  # each once


async def test_a_run_that_goes_on_begins_with_the_first_step_it_has_not_taken() -> None:
    sampler = Sampler()
    sampler.go_on.set()

    assert await Prefetch(sampler, steps=4, max_staleness=1).take(2) == 2
    assert sampler.begun == [2, 3]


async def test_rollouts_of_steps_and_of_an_evaluation_share_one_limit_and_the_evaluation_goes_first() -> None:
    whole = PrioritySemaphore(1)
    steps, begun, go_on = PrioritySemaphore(1, within=whole), list[int](), asyncio.Event()

    async def one(semaphore: PrioritySemaphore, priority: int) -> None:
        async with semaphore.acquired(priority):
            begun.append(priority)
            await go_on.wait()

    running = [asyncio.create_task(one(steps, 1)) for _ in range(2)]
    await eventually(lambda: begun == [1], "a rollout of a step is running")
    running += [asyncio.create_task(one(whole, -1)) for _ in range(2)]
    await asyncio.sleep(0)
    assert begun == [1]
    go_on.set()
    await asyncio.gather(*running)

    assert begun == [1, -1, -1, 1]


async def test_what_is_sampled_ahead_ends_with_the_run() -> None:
    sampler = Sampler()
    prefetch = Prefetch(sampler, steps=4, max_staleness=2)
    waiting = asyncio.create_task(prefetch.take(0))
    await eventually(lambda: len(sampler.begun) == 3, "three steps are being sampled")

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await prefetch.stop()

    assert sorted(sampler.cancelled) == [0, 1, 2]


async def test_the_engines_own_error_is_not_wrapped_in_a_group() -> None:
    async def sample(step: int) -> int:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_raises(woodshed.EngineError("the engine is gone")))
        return step

    with pytest.raises(woodshed.EngineError, match="the engine is gone"):
        await Prefetch(sample, steps=1, max_staleness=0).take(0)


async def _raises(error: Exception) -> None:
    raise error


async def test_a_free_place_goes_to_the_earliest_step_that_waits() -> None:
    slots, order = PrioritySemaphore(1), list[int]()

    async def work(step: int) -> None:
        async with slots.acquired(step):
            order.append(step)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for step in (0, 2, 1, 0):
            tasks.create_task(work(step))

    assert order == [0, 0, 1, 2]


async def test_a_place_is_not_lost_where_the_one_who_waits_for_it_is_cancelled() -> None:
    slots = PrioritySemaphore(1)

    async def work() -> str:
        async with slots.acquired(0):
            return "done"

    async with slots.acquired(0):
        gone, late = asyncio.create_task(work()), asyncio.create_task(work())
        await asyncio.sleep(0)
        gone.cancel()
    late.cancel()  # the place is on its way to it

    assert await asyncio.wait_for(work(), 5) == "done"
