"""Turn what happens around a hooked call inside a rollout into the wrapper that the hook takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import aclosing
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Protocol, overload

from woodshed.capture.context import live_rollout, require_rollout
from woodshed.capture.generators import stepped, stepped_sync
from woodshed.capture.hooks import Around
from woodshed.capture.own_errors import note_own_error, watched
from woodshed.capture.rollout import Rollout

Steps = Generator[Callable[[], Any], Any, Any]
"""What a generator body returns: it yields the call to make, takes its result and returns the answer."""


class AroundInRollout(Protocol):
    """What happens around a hooked call inside a rollout: `wrapt`'s arguments behind the rollout."""

    def __call__(self, rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any, /) -> Any:
        """Return the call's result, or the generator described at `in_rollout`."""


def method_name(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> str:
    """Return the name of a hooked method as its caller knows it, such as `ChatOpenAI.generate()`."""
    return f"{type(instance).__name__}.{wrapped.__name__}()"


@overload
def in_rollout(body: AroundInRollout) -> Around: ...
@overload
def in_rollout(*, model_call: Around) -> Callable[[AroundInRollout], Around]: ...
def in_rollout(body: AroundInRollout | None = None, *, model_call: Around | None = None) -> Any:
    """Return a wrapper that runs `body` inside a rollout, and calls straight through outside one.

    A plain `body` returns the result, or what the target's caller awaits or iterates. A generator `body` yields at
    most once: the call to make, as a function without arguments. It gets the call's result, or its exception, at the
    `yield`, and returns the result. The same body serves a function, a coroutine function and an async generator
    function; for the last one the result at the `yield` is None and the items are passed on as they come. A generator's
    steps have variables of the rollout of their own: whoever reads the items is outside every scope it is in.

    Args:
        body: takes the rollout, then `wrapt`'s arguments.
        model_call: names the call. Given, a call that has lost its rollout raises `LeakError` under that name;
            without a name it goes straight through.

    Example:
        ```python
        @in_rollout
        def around_tool(rollout, wrapped, instance, args, kwargs) -> Steps:
            with ToolSpan(rollout, tool_call_id=None, name=instance.name, arguments=kwargs) as span:
                result = yield partial(wrapped, *args, **kwargs)
                span.ended(str(result))
            return result
        ```
    """
    if body is None:
        return functools.partial(_around, model_call=model_call)
    return _around(body, model_call)


def _around(body: AroundInRollout, model_call: Around | None) -> Around:
    inner = _driven(body) if inspect.isgeneratorfunction(body) else body

    @functools.wraps(body)
    def around(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        if model_call is None:
            rollout = live_rollout()
        else:
            rollout = require_rollout(model_call(wrapped, instance, args, kwargs))
        if rollout is None:
            return wrapped(*args, **kwargs)
        try:
            result = inner(rollout, wrapped, instance, args, kwargs)
        except BaseException as error:
            note_own_error(rollout, error)
            raise
        later = _LATER.get(type(result))
        return result if later is None else later(rollout, result)

    return around


async def _watched_coroutine(rollout: Rollout, result: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await result
    except BaseException as error:
        note_own_error(rollout, error)
        raise


async def _watched_async_generator(rollout: Rollout, result: AsyncGenerator[Any, Any]) -> AsyncIterator[Any]:
    with watched(rollout):
        async with aclosing(stepped(result)) as items:  # type: ignore[type-var]
            async for item in items:
                yield item


def _watched_generator(rollout: Rollout, result: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    with watched(rollout):
        return (yield from stepped_sync(result))


_LATER: dict[type, Callable[[Rollout, Any], Any]] = {
    CoroutineType: _watched_coroutine,
    AsyncGeneratorType: _watched_async_generator,
    GeneratorType: _watched_generator,
}
"""What lets an error of woodshed's own fail the rollout also where it is raised later, whatever the agent makes of it.

By the exact type: none of the three can be subclassed.
"""


def _driven(body: AroundInRollout) -> AroundInRollout:
    """Return a body that drives a generator body in the way its target is called."""

    def inner(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any, /) -> Any:
        steps: Steps = body(rollout, wrapped, instance, args, kwargs)
        return _driver(getattr(wrapped, "__func__", wrapped))(steps)

    return inner


@functools.lru_cache(maxsize=512)
def _driver(target: Any) -> Callable[[Steps], Any]:
    """Return what drives a body around this function."""
    if inspect.iscoroutinefunction(target):
        return _drive_coroutine
    return _drive_async_generator if inspect.isasyncgenfunction(target) else _drive


def _drive(steps: Steps) -> Any:
    try:
        call = next(steps)
    except StopIteration as answered_without_the_call:
        return answered_without_the_call.value
    try:
        result = call()
    except BaseException as error:
        return _fail(steps, error)
    return _finish(steps, result)


async def _drive_coroutine(steps: Steps) -> Any:
    try:
        call = next(steps)
    except StopIteration as answered_without_the_call:
        return answered_without_the_call.value
    try:
        result = await call()
    except BaseException as error:
        return _fail(steps, error)
    return _finish(steps, result)


async def _drive_async_generator(steps: Steps) -> AsyncIterator[Any]:
    call = next(steps)
    try:
        async with aclosing(call()) as items:
            async for item in items:
                yield item
    except BaseException as error:
        _fail(steps, error)
    else:
        _finish(steps, None)


def _finish(steps: Steps, result: Any) -> Any:
    try:
        steps.send(result)
    except StopIteration as end:
        return end.value
    raise RuntimeError(f"{steps.__qualname__} yields more than once")  # type: ignore[attr-defined]


def _fail(steps: Steps, error: BaseException) -> Any:
    """Raise the call's exception inside the body; return what the body answers instead, if it catches it."""
    try:
        steps.throw(error)
    except StopIteration as end:
        return end.value
    except RuntimeError as raised:
        # No generator lets a StopIteration pass (PEP 479): the target's own is taken out of the RuntimeError.
        if isinstance(error, StopIteration) and raised.__cause__ is error:
            raise error from None
        raise
    raise RuntimeError(f"{steps.__qualname__} yields more than once")  # type: ignore[attr-defined]
