"""Whose rollout is this: the binding reaches tasks, threads and pools, never a neighbour, and nothing leaks."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import getcontext, localcontext

import pytest

from woodshed.capture import Rollout, bind, current_rollout, propagate, require_rollout, untracked
from woodshed.errors import LeakError


def a_rollout(name: str = "r") -> Rollout:
    return Rollout(base_url="http://127.0.0.1:1/v1", secret="s", rollout_id=name)


def in_thread(work: Callable[[], object]) -> object:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def test_outside_any_rollout_a_call_goes_its_own_way() -> None:
    assert current_rollout() is None
    assert require_rollout("a call") is None


def test_the_binding_ends_with_its_block_and_nests() -> None:
    outer, inner = a_rollout("outer"), a_rollout("inner")
    seen = []
    with bind(outer):
        with bind(inner):
            seen.append(current_rollout())
        seen.append(current_rollout())
    seen.append(current_rollout())

    assert seen == [inner, outer, None]


def test_the_binding_ends_when_the_block_raises() -> None:
    with pytest.raises(ZeroDivisionError), bind(a_rollout()):
        raise ZeroDivisionError

    assert (current_rollout(), require_rollout("a call")) == (None, None)


def test_a_raw_thread_a_timer_and_a_thread_subclass_belong_to_the_rollout() -> None:
    class Worker(threading.Thread):
        rollout: Rollout | None = None

        def run(self) -> None:
            self.rollout = current_rollout()

    rollout, timed = a_rollout(), []
    with bind(rollout):
        worker, timer = Worker(), threading.Timer(0, lambda: timed.append(current_rollout()))
        for thread in (worker, timer):
            thread.start()
        for thread in (worker, timer):
            thread.join()

        assert (in_thread(current_rollout), worker.rollout, timed) == (rollout, rollout, [rollout])


def test_a_pool_and_a_default_executor_belong_to_the_rollout() -> None:
    rollout = a_rollout()

    async def in_executor() -> object:
        return await asyncio.get_running_loop().run_in_executor(None, current_rollout)

    with bind(rollout), ThreadPoolExecutor(2) as pool:
        rollouts: list[object] = [
            pool.submit(current_rollout).result(),
            *pool.map(lambda _: current_rollout(), range(3)),
        ]
        rollouts.append(asyncio.run(in_executor()))

    assert rollouts == [rollout] * 5


def test_a_pool_worker_keeps_no_finished_rollout() -> None:
    first, second = a_rollout("first"), a_rollout("second")
    with ThreadPoolExecutor(1) as pool:
        with bind(first):
            seen = [pool.submit(current_rollout).result()]
        seen.append(pool.submit(current_rollout).result())
        with bind(second):
            seen.append(pool.submit(current_rollout).result())

    assert seen == [first, None, second]


def test_a_job_submitted_outside_the_rollout_is_not_adopted_by_it() -> None:
    started, go = threading.Event(), threading.Event()

    def job() -> object:
        started.set()
        go.wait(5)
        return current_rollout()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(job)
        started.wait(5)
        with bind(a_rollout()):
            go.set()
            assert waiting.result() is None


def test_a_failing_job_leaves_the_worker_clean() -> None:
    with ThreadPoolExecutor(1) as pool:
        with bind(a_rollout()):
            failed = pool.submit(lambda: 1 // 0).exception()
        after = pool.submit(current_rollout).result()

    assert (type(failed), after) == (ZeroDivisionError, None)


def test_only_the_rollout_travels_not_the_whole_context() -> None:
    own: contextvars.ContextVar[str] = contextvars.ContextVar("own", default="default")
    own.set("set here")
    with localcontext() as decimal, bind(a_rollout()):
        decimal.prec = 3

        assert in_thread(own.get) == "default"
        assert in_thread(lambda: getcontext().prec) != 3


def test_a_registered_variable_travels_with_the_rollout() -> None:
    variable: contextvars.ContextVar[str | None] = propagate(contextvars.ContextVar("variable", default=None))
    token = variable.set("node")
    try:
        with bind(a_rollout()):
            assert in_thread(variable.get) == "node"
    finally:
        variable.reset(token)


async def test_32_concurrent_rollouts_do_not_mix() -> None:
    async def one(number: int) -> bool:
        rollout = a_rollout(str(number))
        with bind(rollout):
            rollouts = []
            for _ in range(5):
                await asyncio.sleep(0)
                rollouts += [current_rollout(), await asyncio.to_thread(current_rollout)]
            return rollouts == [rollout] * 10

    assert await asyncio.gather(*(one(number) for number in range(32))) == [True] * 32


def test_a_call_without_a_rollout_leaks_while_others_are_active() -> None:
    outside = contextvars.copy_context()
    with bind(a_rollout()), pytest.raises(LeakError, match=r"ChatModel.invoke has no rollout although 1 .*untracked"):
        outside.run(require_rollout, "ChatModel.invoke")


def test_untracked_code_goes_its_own_way_also_in_threads() -> None:
    rollout = a_rollout()
    with bind(rollout):
        with untracked():
            inside = [current_rollout(), require_rollout("judge"), in_thread(lambda: require_rollout("judge"))]
        after = require_rollout("call")

    assert (inside, after) == ([None, None, None], rollout)


def test_after_the_last_rollout_threads_are_as_they_were() -> None:
    start, submit = threading.Thread.__dict__["start"], ThreadPoolExecutor.__dict__["submit"]
    with bind(a_rollout()), bind(a_rollout()):
        pass

    assert threading.Thread.__dict__["start"] is start
    assert ThreadPoolExecutor.__dict__["submit"] is submit


async def test_a_binding_left_by_another_context_still_ends_for_the_process() -> None:
    """An abandoned async generator is closed in a context of its own; the count of active rollouts must not stay."""

    async def generator() -> AsyncGenerator[int, None]:
        with bind(a_rollout()):
            yield 1

    stream = generator()
    await asyncio.ensure_future(stream.__anext__())
    await stream.aclose()

    assert require_rollout("a later call") is None


def test_the_secret_is_not_shown() -> None:
    rollout = Rollout(base_url="http://x/v1", secret="hush", scenario_id="s1", rollout_id="r1")

    assert repr(rollout) == "Rollout('r1', scenario='s1')"
