"""One body serves sync, async and streaming targets: passed straight through outside a rollout, driven inside one."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any

import pytest
import wrapt

from woodshed.capture import Rollout, Steps, bind, in_rollout, method_name
from woodshed.errors import LeakError

seen: list[Any] = []
where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="outside")


@pytest.fixture(autouse=True)
def _forget() -> None:
    seen.clear()


def a_rollout() -> Rollout:
    return Rollout(base_url="http://127.0.0.1:1/v1", secret="s", rollout_id="r")


@in_rollout
def around(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Open, call, close."""
    token = where.set("inside")
    seen.append(("open", rollout.rollout_id))
    try:
        result = yield partial(wrapped, *args, **kwargs)
        seen.append(("result", result))
    except BaseException as error:
        seen.append(("error", type(error).__name__))
        raise
    finally:
        where.reset(token)
    return f"<{result}>"


class Target:
    @wrapt.decorator
    @staticmethod
    def hooked(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return around(wrapped, instance, args, kwargs)

    @hooked
    def plain(self, x: int) -> str:
        return f"{x} {where.get()}"

    @hooked
    async def waits(self, x: int) -> str:
        await asyncio.sleep(0)
        return f"{x} {where.get()}"

    @hooked
    async def streams(self, x: int) -> AsyncGenerator[int, None]:
        try:
            yield x
            yield x + 1
        finally:
            seen.append("closed")

    @hooked
    def raises(self, error: BaseException) -> None:
        raise error

    @hooked
    async def waits_and_raises(self, error: BaseException) -> None:
        await asyncio.sleep(0)
        raise error


async def test_outside_a_rollout_the_call_goes_straight_through() -> None:
    target = Target()

    assert (target.plain(1), await target.waits(2)) == ("1 outside", "2 outside")
    assert [item async for item in target.streams(3)] == [3, 4]
    assert seen == ["closed"]


def test_a_function_is_opened_called_and_closed() -> None:
    with bind(a_rollout()):
        assert Target().plain(1) == "<1 inside>"
    assert seen == [("open", "r"), ("result", "1 inside")]
    assert where.get() == "outside"


async def test_a_coroutine_function_is_opened_when_it_is_awaited() -> None:
    with bind(a_rollout()):
        waiting = Target().waits(1)
        before = list(seen)

        assert await waiting == "<1 inside>"
    assert (before, seen) == ([], [("open", "r"), ("result", "1 inside")])


async def test_an_async_generator_is_passed_on_item_by_item() -> None:
    with bind(a_rollout()):
        items = [item async for item in Target().streams(1)]

    assert (items, seen) == ([1, 2], [("open", "r"), "closed", ("result", None)])


async def test_an_async_generator_that_is_closed_early_closes_its_target_and_its_body() -> None:
    with bind(a_rollout()):
        stream: Any = Target().streams(1)
        await stream.__anext__()
        await stream.aclose()

    assert seen == [("open", "r"), "closed", ("error", "GeneratorExit")]


async def test_an_exception_passes_the_body_and_reaches_the_caller_untouched() -> None:
    error = KeyError("mine")
    with bind(a_rollout()):
        with pytest.raises(KeyError) as of_a_function:
            Target().raises(error)
        with pytest.raises(KeyError) as of_a_coroutine:
            await Target().waits_and_raises(error)

    assert of_a_function.value is error is of_a_coroutine.value
    assert seen == [("open", "r"), ("error", "KeyError")] * 2


def test_a_stop_iteration_stays_what_it_is() -> None:
    error = StopIteration("mine")
    with bind(a_rollout()), pytest.raises(StopIteration) as raised:
        Target().raises(error)

    assert raised.value is error


async def test_a_cancelled_call_closes_its_body() -> None:
    with bind(a_rollout()):
        task = asyncio.ensure_future(Target().waits(1))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert seen == [("open", "r"), ("error", "CancelledError")]


async def test_a_body_may_answer_without_the_call_or_instead_of_its_exception() -> None:
    def body(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
        if args == ("refused",):
            return "answered"
        try:
            yield partial(wrapped, *args)
        except ZeroDivisionError:
            return "caught"

    hook = in_rollout(body)

    def divide(by: int) -> float:
        return 1 / by

    async def divide_later(by: int) -> float:
        return 1 / by

    with bind(a_rollout()):
        assert [hook(divide, None, (by,), {}) for by in ("refused", 0)] == ["answered", "caught"]
        assert [await hook(divide_later, None, (by,), {}) for by in ("refused", 0)] == ["answered", "caught"]


async def test_a_plain_body_returns_whatever_its_caller_takes() -> None:
    async def awaited(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return [rollout.rollout_id, await wrapped(*args, **kwargs)]

    def other_stream(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> AsyncIterator[int]:
        return wrapped(*args, **kwargs)  # type: ignore[no-any-return]

    async def target(x: int) -> int:
        return x

    async def stream(x: int) -> AsyncGenerator[int, None]:
        yield x

    with bind(a_rollout()):
        assert await in_rollout(awaited)(target, None, (1,), {}) == ["r", 1]
        assert [item async for item in in_rollout(other_stream)(stream, None, (2,), {})] == [2]


def test_a_body_that_yields_twice_is_named() -> None:
    def twice(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
        yield wrapped
        yield wrapped

    with bind(a_rollout()), pytest.raises(RuntimeError, match="twice yields more than once"):
        in_rollout(twice)(lambda: None, None, (), {})


def test_a_model_call_without_a_rollout_leaks_while_others_are_active() -> None:
    hook = in_rollout(model_call=method_name)(lambda rollout, wrapped, instance, args, kwargs: "policy")
    outside = contextvars.copy_context()
    free = hook(Target().plain, Target(), (1,), {})
    with bind(a_rollout()):
        bound = hook(Target().plain, Target(), (1,), {})
        with pytest.raises(LeakError, match=r"Target\.plain\(\) has no rollout"):
            outside.run(hook, Target().plain, Target(), (1,), {})

    assert (free, bound) == ("1 outside", "policy")


def test_the_wrapper_keeps_the_name_of_its_body() -> None:
    assert (around.__name__, inspect.getdoc(around)) == ("around", "Open, call, close.")  # type: ignore[attr-defined]
