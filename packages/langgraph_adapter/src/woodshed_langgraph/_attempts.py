"""Which of several attempts at the same work a call belongs to.

Four things try again: a node or task with a `RetryPolicy`, a runnable made by `with_retry` or by `with_fallbacks`, and
a node that is run from its beginning when an interrupted graph is resumed. All that was asked in the earlier attempt is
superseded, also in sub-graphs, until the sub-graph itself shows that it goes on:

- A graph that starts from a saved checkpoint goes on from the answers in it. Those of the steps before the checkpoint
  are in use; a task of the checkpoint's own step is either restored with its writes, or runs again under the same id.
- A graph that finds no checkpoint starts over. That is so without a checkpointer, with `checkpointer=False`, and after
  a `RetryPolicy`: LangGraph then counts the sub-graph as another one of the same task, with another namespace.
- A `@task` that has finished is not run again when its entrypoint is: its answers are in use.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

from langgraph.errors import GraphBubbleUp

from woodshed.capture import AttemptScope, OpenCall, Rollout, Steps, current_call_context, in_rollout, in_scope
from woodshed_langgraph._answers import Ask, model_answers
from woodshed_langgraph._convert import agent_name

RunKey = tuple[str, str]
"""A graph's run: its thread and its checkpoint namespace."""


class Scope(AttemptScope):
    """Work in which graphs may run."""

    def __init__(self, **about: Any) -> None:
        """Begin without any graph."""
        super().__init__(**about)
        self.runs: dict[RunKey, _Run] = {}

    def counted(self) -> list[OpenCall]:
        """Return the calls of the current attempt."""
        return list(self._calls)


class _Run(Scope):
    """One run of a graph inside other work, as long as it goes on from its own checkpoints."""

    def __init__(self, parent: AttemptScope) -> None:
        """Begin in the current attempt of the work around it; a later attempt that goes on does not count."""
        super().__init__(parent=parent, agent=parent.agent, key=None, attempt=parent.attempt)
        self.tasks: list[_Task] = []

    @property
    def attempt(self) -> int:
        """The attempt in which the graph started."""
        return self._attempt

    def go_on(self, parent: AttemptScope, last_step: int) -> None:
        """Go on in another attempt of the work around it, from the answers up to and including `last_step`."""
        self.parent = parent
        for task in self.tasks:
            if task.step <= last_step:
                self.take_back(task.answered())


class _Task(Scope):
    """One task of a graph: a node, or a `@task`."""

    def __init__(self, task: Any, parent: AttemptScope | None) -> None:
        """Begin the task's first run."""
        metadata = task.config.get("metadata") or {}
        super().__init__(parent=parent, agent=agent_name(metadata), key=task.id)
        self.step = int(metadata.get("langgraph_step", 0))
        self.asked = Ask()
        """What was asked through the `handler` of an agent's model node."""
        if isinstance(parent, _Run):
            parent.tasks.append(self)

    def answered(self) -> Iterator[OpenCall]:
        """Yield the calls that got an answer which the task did not throw away itself."""
        return (call for call in self.counted() if call.error is None)


_tasks: weakref.WeakKeyDictionary[Rollout, dict[str, _Task]] = weakref.WeakKeyDictionary()
"""Every task that ran in a rollout; the same task again means that the graph was resumed."""
_runs: weakref.WeakKeyDictionary[Rollout, dict[RunKey, _Run]] = weakref.WeakKeyDictionary()
"""The latest run of every graph that ran inside other work."""


def _run_key(config: Any, namespace: str) -> RunKey:
    return str(config.get("configurable", {}).get("thread_id")), namespace


def _namespace(config: Any) -> str:
    return config.get("configurable", {}).get("checkpoint_ns") or ""


def _parent_of(task: Any) -> AttemptScope | None:
    """Return the run of the task's graph, or the work around it."""
    around = current_call_context().scope
    graph = _namespace(task.config).rpartition("|")[0]
    return around.runs.get(_run_key(task.config, graph), around) if isinstance(around, Scope) else around


def _task_scope(rollout: Rollout, task: Any) -> _Task:
    """Open the scope of one run of a task."""
    tasks = _tasks.setdefault(rollout, {})
    earlier = tasks.get(task.id)
    if earlier is None:
        earlier = tasks[task.id] = _Task(task, _parent_of(task))
    else:
        earlier.parent = _parent_of(task)
        earlier.try_again()
        earlier.asked = Ask()
    return earlier


def current_task() -> _Task | None:
    """Return the innermost task this code runs in."""
    scope = current_call_context().scope
    while scope is not None and not isinstance(scope, _Task):
        scope = scope.parent
    return scope


@in_rollout
def around_graph_start(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Notice whether a graph goes on from a checkpoint or starts over (`PregelLoop._first`, which takes the input)."""
    found, checkpoint, step = instance.checkpoint["channel_versions"], instance.checkpoint["id"], instance.step
    has_checkpoint = bool(found)
    updated = yield partial(wrapped, *args, **kwargs)
    scope = current_call_context().scope
    if not isinstance(scope, Scope):
        return updated
    key = _run_key(instance.config, _namespace(instance.config))
    runs = _runs.setdefault(rollout, {})
    run = runs.get(key) if has_checkpoint else None
    if run is None:
        run = runs[key] = _Run(scope)
    else:
        # New input puts an end to the tasks of the checkpoint's own step.
        resumes = instance.checkpoint["id"] == checkpoint or instance.checkpoint_metadata.get("source") == "fork"
        run.go_on(scope, step if resumes else step - 1)
    scope.runs[key] = run
    return updated


@in_rollout
def around_task_call(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Notice a `@task` that is not run again: its writes were restored (`PregelLoop.accept_push`)."""
    task = wrapped(*args, **kwargs)
    earlier = _tasks.get(rollout, {}).get(task.id) if task is not None and task.writes else None
    if earlier is not None:
        earlier.parent = _parent_of(task)
        if earlier.parent is not None:
            earlier.parent.take_back(earlier.answered())
    return task


@in_rollout
def around_node(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Run a task in a scope of its own."""
    task = args[0]
    scope = _task_scope(rollout, task)
    try:
        with in_scope(scope):
            result = yield partial(wrapped, *args, **kwargs)
    except GraphBubbleUp:
        raise
    except Exception:
        scope.asked.settle(scope, None)
        raise
    scope.succeed()
    scope.asked.settle(scope, model_answers(task.writes))
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
    scope = Scope(parent=context.scope, agent=context.agent, key=run_manager, attempt=0)
    with in_scope(scope):
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


@in_rollout
def around_fallbacks(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Run a `with_fallbacks` block in a scope of its own."""
    context = current_call_context()
    scope = context.scope
    # With an exception key the next runnable is told of the error: the answer behind it was worked on.
    if instance.exception_key is None:
        scope = _Fallbacks(parent=context.scope, agent=context.agent, key=None, attempt=0)
    with in_scope(scope):
        return (yield partial(wrapped, *args, **kwargs))


class _Fallbacks(Scope):
    """A `with_fallbacks` block; the first attempt's parent run names it, since what runs inside may have its own."""

    def next_runnable(self, block: Any) -> None:
        """Begin an attempt, if it is one of this block's."""
        self.key = self.key or block
        if self.key == block:
            self.try_again()


@in_rollout
def around_fallback(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Notice a runnable of a `with_fallbacks` block as it begins (`patch_config(config, callbacks=...)`)."""
    scope = current_call_context().scope
    if isinstance(scope, _Fallbacks):
        scope.next_runnable(getattr(kwargs.get("callbacks"), "parent_run_id", None))
    return wrapped(*args, **kwargs)
