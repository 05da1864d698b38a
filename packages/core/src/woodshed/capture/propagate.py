"""Propagate the rollout into raw threads and pools, which Python starts with an empty context.

Only registered variables travel, not the whole context: a thread that inherited the framework's own variables would
report to callbacks and streams it never reported to before, and the agent would behave differently inside a rollout.
"""

from __future__ import annotations

import concurrent.futures.thread
import contextvars
from collections.abc import Callable
from typing import Any, TypeVar

from woodshed.capture.hooks import Hook, HookSet

T = TypeVar("T")
_Values = tuple[tuple[contextvars.ContextVar[Any], Any], ...]
_variables: list[contextvars.ContextVar[Any]] = []


def propagate(variable: contextvars.ContextVar[T]) -> contextvars.ContextVar[T]:
    """Let `variable` travel into raw threads and pools while a rollout is bound; returns it.

    A value of None counts as unset and does not travel.
    """
    _variables.append(variable)
    return variable


def _values() -> _Values:
    return tuple((variable, value) for variable in _variables if (value := variable.get(None)) is not None)


def swapped(values: _Values | None = None) -> _Values:
    """Return what the registered variables hold here, None included, and set them to `values` if those are given."""
    held = tuple((variable, variable.get(None)) for variable in _variables)
    for variable, value in values or ():
        variable.set(value)
    return held


def _run_with(values: _Values, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call `function` with the propagated values, and leave the thread's context as it was: pool workers live on."""
    tokens = [(variable, variable.set(value)) for variable, value in values]
    try:
        return function(*args, **kwargs)
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def _submit(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    values = _values()
    if not args or not values:
        return wrapped(*args, **kwargs)
    return wrapped(_run_with, values, *args, **kwargs)


def _start(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    values = _values()
    # A pool's worker outlives the rollout that happened to start it: its jobs bring their own values (see _submit).
    if not values or getattr(instance, "_target", None) is concurrent.futures.thread._worker:
        return wrapped(*args, **kwargs)
    run = instance.run

    def run_with_rollout() -> None:
        instance.__dict__.pop("run", None)
        _run_with(values, run)

    instance.run = run_with_rollout
    return wrapped(*args, **kwargs)


THREAD_HOOKS = HookSet(
    (
        Hook("concurrent.futures.thread", "ThreadPoolExecutor.submit", _submit),
        Hook("threading", "Thread.start", _start),
    )
)
"""Applied while at least one rollout is bound, reverted exactly after the last."""
