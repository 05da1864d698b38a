"""The context of a call: which agent's work it is part of, which tool it runs in, and which attempt at that work.

A framework that tries again discards the earlier answer: the calls behind it are `superseded` and never trained.
"""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

from woodshed.capture.context import is_here, runner
from woodshed.capture.generators import holding
from woodshed.capture.propagate import propagate
from woodshed.capture.recorder import OpenCall, OpenTool


class AttemptScope:
    """One piece of work that the framework may run again: a node, a task, a turn of an agent."""

    def __init__(self, *, parent: AttemptScope | None, agent: str | None, key: Any, attempt: int = 1) -> None:
        """Begin work as a part of `parent`: a new attempt at the parent supersedes the calls made here too."""
        self.parent = parent
        self.agent = agent
        self.key = key
        self._attempt = attempt
        self._failed = False
        self._calls: list[OpenCall] = []

    @property
    def attempt(self) -> int:
        """The number of this attempt, or of an enclosing one where that is higher."""
        own = self._attempt + self._failed
        return max(own, self.parent.attempt) if self.parent else own

    def add(self, call: OpenCall) -> None:
        """Count a call as part of the current attempt, here and in all enclosing work."""
        if self._failed:
            self.try_again()
        if call not in self._calls:
            self._calls.append(call)
        if self.parent:
            self.parent.add(call)

    def fail(self) -> None:
        """Note that the attempt failed. The next call, or `succeed`, then belongs to a further attempt."""
        self._failed = True

    def try_again(self) -> None:
        """Begin a further attempt; the calls of the last one are superseded."""
        self.discard(self._calls)
        self._failed = False
        self._attempt += 1

    def discard(self, calls: Iterable[OpenCall]) -> None:
        """Supersede calls whose answers were thrown away, and no longer count them, here and in all enclosing work."""
        for call in tuple(calls):
            call.superseded = True
            scope: AttemptScope | None = self
            while scope is not None:
                with suppress(ValueError):
                    scope._calls.remove(call)
                scope = scope.parent

    def take_back(self, calls: Iterable[OpenCall]) -> None:
        """Count answers of an earlier attempt as part of the current one: the work goes on from them."""
        for call in tuple(calls):
            self.add(call)
            call.superseded = False

    def succeed(self) -> None:
        """End the work with the current attempt's answers."""
        if self._failed:
            self.try_again()


class CallContext(NamedTuple):
    """The work a call is part of, the tool it runs in, and the earlier call that asked for that tool."""

    scope: AttemptScope | None = None
    tool: OpenTool | None = None
    parent_call_id: str | None = None
    """The model call that asked for the tool that the call runs in."""

    @property
    def agent(self) -> str | None:
        """Name of the agent or node."""
        return self.scope.agent if self.scope else None


class _Entered(NamedTuple):
    context: CallContext
    owner: weakref.ref[Any] | None
    """The task or thread that entered the block; None where a worker took the context over."""


_NOWHERE = CallContext()
_entered: contextvars.ContextVar[_Entered | None] = propagate(
    contextvars.ContextVar("woodshed_call_context", default=None)
)


def current_call_context() -> CallContext:
    """Return the context of a call made here; an empty one outside any hooked work."""
    entered = _entered.get()
    return entered.context if entered else _NOWHERE


def in_call_context(context: CallContext) -> AbstractContextManager[None]:
    """Make `context` the current call context for a block and for the tasks and threads it starts."""
    return holding(_entered, _Entered(context, runner()))


def in_scope(scope: AttemptScope | None) -> AbstractContextManager[None]:
    """Make the calls of a block, and of the tasks and threads it starts, a part of `scope`."""
    return in_call_context(current_call_context()._replace(scope=scope))


def adopt_call_context(context: CallContext) -> None:
    """Let a worker go on in the call context of whoever handed it work; code inside a block of its own keeps that."""
    mine = _entered.get()
    if mine is None or not is_here(mine.owner):
        _entered.set(_Entered(context, None))
