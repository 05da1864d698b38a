"""Where a call happens: in which agent's work, under which tool, and in which of several attempts at the same work.

A framework that tries again throws the earlier answer away: the calls behind it are `superseded`, and never trained.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from woodshed.capture.propagate import carry
from woodshed.capture.recorder import OpenCall, OpenTool


class AttemptScope:
    """One piece of work that the framework may run again: a node, a task, a turn of an agent."""

    def __init__(self, *, parent: AttemptScope | None, agent: str | None, key: Any, attempt: int = 1) -> None:
        """`parent` is the work this is a part of: trying that again throws this away too."""
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
        self._calls.append(call)
        if self.parent:
            self.parent.add(call)

    def fail(self) -> None:
        """Say that the attempt failed and there may be another, or not: that shows when it makes a call or succeeds."""
        self._failed = True

    def try_again(self) -> None:
        """Begin a further attempt, which throws the answers of the last one away."""
        for call in self._calls:
            call.superseded = True
        self._calls, self._failed = [], False
        self._attempt += 1

    def succeed(self) -> None:
        """End the work with the current attempt's answers."""
        if self._failed:
            self.try_again()


@dataclass(frozen=True, slots=True)
class CallContext:
    """Where a call happens: in which work, under which tool, asked for by which earlier call."""

    scope: AttemptScope | None = None
    tool: OpenTool | None = None
    parent_call_id: str | None = None
    """The model call that asked for the tool this happens in."""

    @property
    def agent(self) -> str | None:
        """Name of the agent or node."""
        return self.scope.agent if self.scope else None


_place: contextvars.ContextVar[CallContext | None] = carry(contextvars.ContextVar("woodshed_place", default=None))


def current_call_context() -> CallContext:
    """Return where this code runs."""
    return _place.get() or CallContext()


@contextmanager
def at(place: CallContext) -> Iterator[None]:
    """Let this block happen at `place`."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)
