"""Whose rollout is this? One ContextVar; never object identity, a global or an environment variable."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from woodshed.capture.propagate import THREAD_HOOKS, propagate
from woodshed.capture.rollout import Rollout
from woodshed.errors import LeakError

_UNTRACKED: Literal["untracked"] = "untracked"
_current: contextvars.ContextVar[Rollout | Literal["untracked"] | None] = propagate(
    contextvars.ContextVar("woodshed_rollout", default=None)
)
_lock = threading.Lock()
_active = 0


def current_rollout() -> Rollout | None:
    """Return the rollout this code runs in, or None outside any and inside `untracked()`."""
    current = _current.get()
    return current if isinstance(current, Rollout) else None


def require_rollout(what: str) -> Rollout | None:
    """Return the rollout a model call belongs to, or None where it may go its own way.

    Raises:
        LeakError: no rollout is bound here while rollouts are active in this process. The call would reach the
            author's own model in the middle of training, so it is stopped; `what` names it.
    """
    current = _current.get()
    if current is None and _active:
        raise LeakError(
            f"{what} has no rollout although {_active} rollouts are active: its thread or task was started without "
            "the rollout's context. Start it with `contextvars.copy_context().run(...)`, or put calls that are not "
            "to be trained (judges, evals) inside `with woodshed.untracked():`"
        )
    return current if isinstance(current, Rollout) else None


@contextmanager
def bind(rollout: Rollout) -> Iterator[Rollout]:
    """Make `rollout` the current one for this block and for the tasks and threads it starts."""
    _count(+1)
    token = _current.set(rollout)
    try:
        yield rollout
    finally:
        _count(-1)
        _current.reset(token)


@contextmanager
def untracked() -> Iterator[None]:
    """Let model calls of this block go to the author's own model, neither recorded nor trained."""
    token = _current.set(_UNTRACKED)
    try:
        yield
    finally:
        _current.reset(token)


def _count(change: int) -> None:
    """Count active rollouts; raw threads are hooked while there is one."""
    global _active
    with _lock:
        _active += change
        if _active:
            THREAD_HOOKS.apply()
        else:
            THREAD_HOOKS.revert()
