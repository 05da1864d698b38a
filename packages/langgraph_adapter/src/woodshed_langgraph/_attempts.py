"""Which of several attempts at the same work a call belongs to.

Three things try again: a node with a `RetryPolicy`, a runnable made by `with_retry`, and a node that is run from its
beginning when an interrupted graph is resumed.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

from woodshed.capture import AttemptScope, Rollout, current_call_context, current_rollout, in_call_context
from woodshed_langgraph._convert import agent_name

_tasks: weakref.WeakKeyDictionary[Rollout, dict[str, AttemptScope]] = weakref.WeakKeyDictionary()
"""Every node task that ran in a rollout; the same task again means that the graph was resumed."""


def _task_scope(rollout: Rollout, task: Any) -> AttemptScope:
    """Open the scope of one run of a node's task."""
    configurable = task.config.get("configurable", {})
    # A graph with a checkpointer continues where it was when the work around it is tried again, so that the answers of
    # its finished nodes stay in use; without one it starts over.
    continues = configurable.get("__pregel_checkpointer") is not None
    tasks = _tasks.setdefault(rollout, {})
    earlier = tasks.get(task.id)
    if earlier is not None:
        earlier.try_again()
        return earlier
    scope = tasks[task.id] = AttemptScope(
        parent=None if continues else current_call_context().scope,
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
    with in_call_context(replace(current_call_context(), scope=scope)):
        result = wrapped(*args, **kwargs)
    scope.succeed()
    return result


def around_async_node(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Run a node's task in a scope of its own."""
    rollout = current_rollout()
    return wrapped(*args, **kwargs) if rollout is None else _async_node(wrapped, rollout, args, kwargs)


async def _async_node(wrapped: Any, rollout: Rollout, args: Any, kwargs: Any) -> Any:
    scope = _task_scope(rollout, args[0])
    with in_call_context(replace(current_call_context(), scope=scope)):
        result = await wrapped(*args, **kwargs)
    scope.succeed()
    return result


def around_should_retry(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Notice that a node's attempt failed and the policy asks for another."""
    again = wrapped(*args, **kwargs)
    if again and current_rollout() is not None and (scope := current_call_context().scope) is not None:
        scope.fail()
    return again


def _retry_scope(args: Any, kwargs: Any) -> AttemptScope:
    context, run_manager = current_call_context(), args[1] if len(args) > 1 else kwargs["run_manager"]
    return AttemptScope(parent=context.scope, agent=context.agent, key=run_manager, attempt=0)


def around_retry(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Run a `with_retry` block in a scope of its own; its run manager names it."""
    if current_rollout() is None:
        return wrapped(*args, **kwargs)
    scope = _retry_scope(args, kwargs)
    with in_call_context(replace(current_call_context(), scope=scope)):
        result = wrapped(*args, **kwargs)
    scope.succeed()
    return result


def around_async_retry(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Run a `with_retry` block in a scope of its own; its run manager names it."""
    return wrapped(*args, **kwargs) if current_rollout() is None else _async_retry(wrapped, args, kwargs)


async def _async_retry(wrapped: Any, args: Any, kwargs: Any) -> Any:
    scope = _retry_scope(args, kwargs)
    with in_call_context(replace(current_call_context(), scope=scope)):
        result = await wrapped(*args, **kwargs)
    scope.succeed()
    return result


def around_retry_attempt(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Notice an attempt of a `with_retry` block as it begins (`_patch_config(config, run_manager, retry_state)`)."""
    scope = current_call_context().scope if current_rollout() is not None else None
    if scope is not None and len(args) > 1 and scope.key is args[1]:
        scope.try_again()
    return wrapped(*args, **kwargs)
