"""Which of several attempts at the same work a call belongs to.

Three things try again: a node with a `RetryPolicy`, a runnable made by `with_retry`, and a node that is run from its
beginning when an interrupted graph is resumed.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial
from typing import Any

from woodshed.capture import AttemptScope, Rollout, Steps, current_call_context, in_call_context, in_rollout
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


@in_rollout
def around_node(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Run a node's task in a scope of its own."""
    scope = _task_scope(rollout, args[0])
    with in_call_context(replace(current_call_context(), scope=scope)):
        result = yield partial(wrapped, *args, **kwargs)
    scope.succeed()
    return result


@in_rollout
def around_should_retry(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Notice that a node's attempt failed and the policy asks for another."""
    again = wrapped(*args, **kwargs)
    if again and (scope := current_call_context().scope) is not None:
        scope.fail()
    return again


@in_rollout
def around_retry(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Run a `with_retry` block in a scope of its own; its run manager names it."""
    context, run_manager = current_call_context(), args[1] if len(args) > 1 else kwargs["run_manager"]
    scope = AttemptScope(parent=context.scope, agent=context.agent, key=run_manager, attempt=0)
    with in_call_context(replace(context, scope=scope)):
        result = yield partial(wrapped, *args, **kwargs)
    scope.succeed()
    return result


@in_rollout
def around_retry_attempt(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Notice an attempt of a `with_retry` block as it begins (`_patch_config(config, run_manager, retry_state)`)."""
    scope = current_call_context().scope
    if scope is not None and len(args) > 1 and scope.key is args[1]:
        scope.try_again()
    return wrapped(*args, **kwargs)
