"""Where in the graph a call happens, and which of several attempts at the same work it belongs to.

A framework that tries again throws the earlier answer away: the calls behind it are `superseded`, and never trained.
Three things try again: a node with a `RetryPolicy`, a runnable made by `with_retry`, and a node that is run from its
beginning when an interrupted graph is resumed.
"""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from etude.capture import OpenCall, OpenTool, Rollout, carry, current_rollout
from etude_langgraph._convert import agent_name


class Scope:
    """One piece of work that the framework may run again: a node's task or a `with_retry` block."""

    def __init__(self, *, parent: Scope | None, agent: str | None, key: Any, attempt: int = 1) -> None:
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
class Place:
    """Where a call happens: in which work, under which tool, asked for by which earlier call."""

    scope: Scope | None = None
    tool: OpenTool | None = None
    parent_call_id: str | None = None
    """The model call that asked for the tool this happens in."""

    @property
    def agent(self) -> str | None:
        """Name of the agent or node."""
        return self.scope.agent if self.scope else None


@dataclass(slots=True, weakref_slot=True)
class RolloutState:
    """What the adapter remembers of one rollout besides its records."""

    tasks: dict[str, Scope] = field(default_factory=dict)
    """Every node task that ran; the same task again means that the graph was resumed."""
    asked_by: dict[str, str] = field(default_factory=dict)
    """Tool call id → the model call that asked for it."""
    clients: dict[Any, Any] = field(default_factory=dict)


_place: contextvars.ContextVar[Place | None] = carry(contextvars.ContextVar("etude_langgraph_place", default=None))
_states: weakref.WeakKeyDictionary[Rollout, RolloutState] = weakref.WeakKeyDictionary()


def current_place() -> Place:
    """Return where this code runs."""
    return _place.get() or Place()


def state_of(rollout: Rollout) -> RolloutState:
    """Return what is remembered of a rollout, from its first use to its end."""
    return _states.get(rollout) or _states.setdefault(rollout, RolloutState())


@contextmanager
def at(place: Place) -> Iterator[None]:
    """Let this block happen at `place`."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def _task_scope(rollout: Rollout, task: Any) -> Scope:
    """Open the scope of one run of a node's task."""
    configurable = task.config.get("configurable", {})
    # A graph with a checkpointer continues where it was when the work around it is tried again, so that the answers of
    # its finished nodes stay in use; without one it starts over.
    continues = configurable.get("__pregel_checkpointer") is not None
    tasks = state_of(rollout).tasks
    earlier = tasks.get(task.id)
    if earlier is not None:
        earlier.try_again()
        return earlier
    scope = tasks[task.id] = Scope(
        parent=None if continues else current_place().scope,
        agent=agent_name(task.config.get("metadata") or {}),
        key=task.id,
    )
    return scope


def around_node(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Run a node's task in a scope of its own."""
    rollout = current_rollout()
    if rollout is None:
        return wrapped(*args, **kwargs)
    scope = _task_scope(rollout, args[0])
    with at(replace(current_place(), scope=scope)):
        result = wrapped(*args, **kwargs)
    scope.succeed()
    return result


def around_async_node(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Run a node's task in a scope of its own."""
    rollout = current_rollout()
    return wrapped(*args, **kwargs) if rollout is None else _async_node(wrapped, rollout, args, kwargs)


async def _async_node(wrapped: Any, rollout: Rollout, args: Any, kwargs: Any) -> Any:
    scope = _task_scope(rollout, args[0])
    with at(replace(current_place(), scope=scope)):
        result = await wrapped(*args, **kwargs)
    scope.succeed()
    return result


def around_should_retry(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Notice that a node's attempt failed and the policy asks for another."""
    again = wrapped(*args, **kwargs)
    if again and current_rollout() is not None and (scope := current_place().scope) is not None:
        scope.fail()
    return again


def _retry_scope(args: Any, kwargs: Any) -> Scope:
    place, run_manager = current_place(), args[1] if len(args) > 1 else kwargs["run_manager"]
    return Scope(parent=place.scope, agent=place.agent, key=run_manager, attempt=0)


def around_retry(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Run a `with_retry` block in a scope of its own; its run manager names it."""
    if current_rollout() is None:
        return wrapped(*args, **kwargs)
    scope = _retry_scope(args, kwargs)
    with at(replace(current_place(), scope=scope)):
        result = wrapped(*args, **kwargs)
    scope.succeed()
    return result


def around_async_retry(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Run a `with_retry` block in a scope of its own; its run manager names it."""
    return wrapped(*args, **kwargs) if current_rollout() is None else _async_retry(wrapped, args, kwargs)


async def _async_retry(wrapped: Any, args: Any, kwargs: Any) -> Any:
    scope = _retry_scope(args, kwargs)
    with at(replace(current_place(), scope=scope)):
        result = await wrapped(*args, **kwargs)
    scope.succeed()
    return result


def around_retry_attempt(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Notice an attempt of a `with_retry` block as it begins (`_patch_config(config, run_manager, retry_state)`)."""
    scope = current_place().scope if current_rollout() is not None else None
    if scope is not None and len(args) > 1 and scope.key is args[1]:
        scope.try_again()
    return wrapped(*args, **kwargs)
