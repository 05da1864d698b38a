"""A block that is open in a suspended generator is not around whoever reads the generator."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Any

import pytest

from woodshed.capture import (
    AttemptScope,
    CallContext,
    Rollout,
    bind,
    current_call_context,
    current_rollout,
    in_call_context,
    in_rollout,
    require_rollout,
    untracked,
)
from woodshed.errors import LeakError

ask = require_rollout


def a_rollout() -> Rollout:
    return Rollout(base_url="http://127.0.0.1:1/v1", secret="s", rollout_id="r")


def in_thread(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a thread of its own, or the LeakError it raises."""
    made: list[Any] = []

    def run() -> None:
        try:
            made.append(function())
        except LeakError as error:
            made.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return made[0]


async def in_task(function: Callable[[], Any]) -> Any:
    async def run() -> Any:
        try:
            return function()
        except LeakError as error:
            return error

    return await asyncio.create_task(run())


@contextmanager
def judging() -> Iterator[None]:
    """A `with` block of the author's own."""
    with untracked():
        yield


@asynccontextmanager
async def judging_later() -> AsyncIterator[None]:
    with judging():
        yield


class Judging:
    def __enter__(self) -> None:
        self._scope = untracked()
        self._scope.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._scope.__exit__(*error)


def numbers(scope: Callable[[], Any] = untracked) -> Generator[Any, None, None]:
    with scope():
        yield ask("judge")
        yield ask("judge")
    yield ask("call")


async def later_numbers(scope: Callable[[], Any] = untracked) -> AsyncGenerator[Any, None]:
    with scope():
        await asyncio.sleep(0)
        yield ask("judge")
        await asyncio.sleep(0)
        yield ask("judge")
    yield ask("call")


@pytest.mark.parametrize("scope", [untracked, judging, Judging])
def test_who_reads_a_generator_is_outside_its_block(scope: Callable[[], Any]) -> None:
    rollout = a_rollout()
    with bind(rollout):
        seen = [(inside, ask("call"), current_rollout()) for inside in numbers(scope)]

    assert seen == [(None, rollout, rollout), (None, rollout, rollout), (rollout, rollout, rollout)]


@pytest.mark.parametrize("scope", [untracked, judging, Judging])
async def test_who_reads_an_async_generator_is_outside_its_block(scope: Callable[[], Any]) -> None:
    rollout = a_rollout()
    with bind(rollout):
        seen = [(inside, ask("call")) async for inside in later_numbers(scope)]

    assert seen == [(None, rollout), (None, rollout), (rollout, rollout)]


async def test_a_generator_left_early_leaves_nothing_behind() -> None:
    rollout = a_rollout()
    with bind(rollout):
        for _ in numbers():
            break
        async for _ in later_numbers():
            break
        open_one = later_numbers()
        await anext(open_one)
        async with aclosing(later_numbers()) as closed:
            await anext(closed)
        in_another_context = later_numbers()
        await anext(in_another_context)
        await asyncio.create_task(in_another_context.aclose())
        while_open = ask("call")
        del open_one
        gc.collect()
        await asyncio.sleep(0)

        assert (while_open, ask("call")) == (rollout, rollout)


async def test_a_generator_read_by_several_tasks_leaves_nothing_behind() -> None:
    rollout = a_rollout()
    with bind(rollout):
        stream = later_numbers()
        await asyncio.create_task(anext(stream))  # type: ignore[arg-type]
        await asyncio.create_task(stream.aclose())

        assert ask("call") is rollout


async def test_what_the_block_starts_is_inside_while_the_generator_waits_for_it() -> None:
    async def judged() -> AsyncGenerator[Any, None]:
        async with judging_later():
            yield await asyncio.gather(*(in_task(lambda: ask("judge")) for _ in range(2)))
            yield await asyncio.to_thread(lambda: ask("judge"))
            yield in_thread(lambda: ask("judge"))

    with bind(a_rollout()):
        assert [item async for item in judged()] == [[None, None], None, None]


async def test_what_is_started_while_the_generator_stands_at_a_yield_is_refused() -> None:
    """It may be the reader's, or the block's: to guess is to train on a judge, or to lose what is to be trained."""
    rollout = a_rollout()
    with bind(rollout):
        stream = later_numbers()
        await anext(stream)
        errors = [await in_task(lambda: ask("ChatModel.invoke")), in_thread(lambda: ask("ChatModel.invoke"))]
        await stream.aclose()

    assert [type(error) for error in errors] == [LeakError, LeakError]
    assert "ChatModel.invoke is refused" in str(errors[0])
    assert "End the block before the `yield`" in str(errors[0])
    assert rollout.error is errors[0]


async def test_blocks_that_hold_no_yield_are_as_they_were() -> None:
    async def judge() -> Any:
        with untracked():
            return [await in_task(lambda: ask("judge")), ask("judge")]

    async def asks() -> AsyncGenerator[Any, None]:
        yield await judge()
        yield ask("call")

    rollout = a_rollout()
    with bind(rollout):
        with ExitStack() as stack:
            stack.enter_context(untracked())
            stacked = ask("judge"), [number for number in numbers()]
        with untracked():
            task = asyncio.create_task(in_task(lambda: ask("judge")))
        outlives = await task

        assert (stacked, outlives) == ((None, [None, None, None]), None)
        assert [item async for item in asks()] == [[None, None], rollout]


async def test_a_hooked_generator_keeps_its_scopes_to_itself() -> None:
    """Its steps have variables of their own, so that also what its reader starts meanwhile is the reader's."""
    scope = AttemptScope(parent=None, agent="inner", key=None)

    async def events() -> AsyncGenerator[Any, None]:
        with untracked(), in_call_context(CallContext(scope=scope)):
            yield ask("judge"), current_call_context().agent
            yield ask("judge"), current_call_context().agent
        yield ask("call"), current_call_context().agent

    def sync_events() -> Generator[Any, None, None]:
        with untracked(), in_call_context(CallContext(scope=scope)):
            yield ask("judge"), current_call_context().agent

    hook = in_rollout(lambda rollout, wrapped, instance, args, kwargs: wrapped())
    rollout = a_rollout()
    with bind(rollout):
        seen = []
        async for inside in hook(events, None, (), {}):
            outside = await in_task(lambda: (ask("call"), current_call_context().agent))
            seen.append((inside, outside))
        left: Any = hook(events, None, (), {})
        await anext(left)
        await asyncio.create_task(left.aclose())
        for inside in hook(sync_events, None, (), {}):
            seen.append((inside, in_thread(lambda: (ask("call"), current_call_context().agent))))

    own, readers = (None, "inner"), (rollout, None)
    assert seen == [(own, readers), (own, readers), (readers, readers), (own, readers)]


def test_a_hooked_generator_takes_what_is_sent_and_thrown_and_returns_its_value() -> None:
    def talks() -> Generator[Any, Any, str]:
        try:
            got = yield 1
            yield got
        except ValueError:
            yield "caught"
        return "end"

    hook = in_rollout(lambda rollout, wrapped, instance, args, kwargs: wrapped())
    with bind(a_rollout()):
        talk = hook(talks, None, (), {})
        said = [next(talk), talk.send("sent"), talk.throw(ValueError("x"))]
        with pytest.raises(StopIteration, match="end"):
            next(talk)

    assert said == [1, "sent", "caught"]


async def test_a_scope_that_another_context_ends_raises_nothing_and_changes_nothing_there() -> None:
    async def scoped() -> AsyncGenerator[int, None]:
        with in_call_context(CallContext(scope=AttemptScope(parent=None, agent="inner", key=None))):
            yield 1

    stream = scoped()
    await asyncio.create_task(anext(stream))  # type: ignore[arg-type]
    with in_call_context(CallContext(scope=AttemptScope(parent=None, agent="mine", key=None))):
        await stream.aclose()

        assert current_call_context().agent == "mine"
