"""Which of several attempts at the same work a call belongs to.

What tries again: a task or an agent whose guardrail rejects the answer, an agent whose execution failed
(`max_retry_limit`), a converter whose answer does not fit the output model, a tool written as text that is not
understood, and an author who kicks off again what failed. One model call's own attempts are in `_model_calls`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from woodshed.capture import (
    Around,
    AttemptScope,
    OpenCall,
    Rollout,
    Steps,
    current_call_context,
    in_rollout,
    in_scope,
)
from woodshed_crewai._convert import agent_name, task_name
from woodshed_crewai._executions import executing
from woodshed_crewai._model_calls import Replaced


class Work(AttemptScope):
    """A piece of a crew's work: a task, an agent's run at it, or a conversion of its answer."""

    def __init__(self, *, subject: Any, agent: str | None, task: str | None = None, key: Any = None) -> None:
        """Begin work on `subject` (the task, or the agent of a kickoff) as a part of the work around it."""
        parent = current_call_context().scope
        super().__init__(parent=parent, agent=agent or (parent.agent if parent else None), key=key or (subject,))
        self.subject = subject
        self.task = task or getattr(work_at(parent), "task", None)
        self.has_run = False
        self.output: Replaced | None = None
        self.last_call_id: str | None = None
        """The latest model call: in text mode, the one that asks for the next tool."""

    def add(self, call: OpenCall) -> None:
        """Count a call."""
        self.last_call_id = call.call_id
        super().add(call)

    def begin_run(self) -> None:
        """Count a run of an agent at this subject; a further one supersedes the answers of the last one."""
        if self.has_run:
            self.try_again()
        self.has_run = True

    def try_again(self) -> None:
        """Begin a further attempt; the calls of the last one are superseded."""
        self.output, self.has_run = None, False
        super().try_again()


def work_at(scope: AttemptScope | None) -> Work | None:
    """Return the innermost work that `scope` is a part of."""
    while scope is not None and not isinstance(scope, Work):
        scope = scope.parent
    return scope


@contextmanager
def _inside(work: AttemptScope) -> Iterator[None]:
    with in_scope(work):
        yield
    work.succeed()


def _again(key: tuple[Any, ...]) -> Work | None:
    """Return the current work, with a new attempt begun, if it has this key; else None."""
    work = current_call_context().scope
    if not isinstance(work, Work) or len(work.key) != len(key):
        return None
    if any(one is not other for one, other in zip(work.key, key, strict=True)):
        return None
    work.try_again()
    return work


def _task_work(instance: Any, args: Any, kwargs: Any) -> Work:
    """Return the work of one task (`Task._execute_core(agent, context, tools)`)."""
    agent = (args[0] if args else kwargs.get("agent")) or instance.agent
    return Work(subject=instance, agent=agent_name(agent), task=task_name(instance))


def _run_work(instance: Any, args: Any, kwargs: Any) -> Work:
    """Return the work of one run of an agent at a task (`Agent.execute_task(task, context, tools)`)."""
    task = args[0] if args else kwargs["task"]
    key = (_run_work, instance, task)
    if (again := _again(key)) is not None:
        return again
    _begin_run(task)
    return Work(subject=task, agent=agent_name(instance), task=task_name(task), key=key)


def _kickoff_run_work(instance: Any, args: Any, kwargs: Any) -> Work:
    """Return the work of one run of an agent's kickoff; a guardrail may ask for another."""
    _begin_run(instance)
    return Work(subject=instance, agent=agent_name(instance))


def _same_again_work(instance: Any, args: Any, kwargs: Any) -> Work:
    """Return the work of a function that tries again by calling itself: a converter, a light agent."""
    key = (_same_again_work, instance)
    return _again(key) or Work(subject=instance, agent=agent_name(instance), key=key)


def _begin_run(subject: Any) -> None:
    outer = current_call_context().scope
    if isinstance(outer, Work) and outer.subject is subject:
        outer.begin_run()


def _around(open_work: Callable[[Any, Any, Any], Work], *, executes: bool = False) -> Around:
    @in_rollout
    def around(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
        with _inside(open_work(instance, args, kwargs)), executing() if executes else nullcontext():
            return (yield partial(wrapped, *args, **kwargs))

    return around


around_task = _around(_task_work)
around_run = _around(_run_work)
around_kickoff_run = _around(_kickoff_run_work, executes=True)
around_same_again = _around(_same_again_work)

_failed: weakref.WeakKeyDictionary[Rollout, dict[Any, AttemptScope]] = weakref.WeakKeyDictionary()
"""What was kicked off and failed, by what it is and what it was given: kicked off again, it is a further attempt."""


def _kickoff(open_work: Callable[[Any], AttemptScope]) -> Around:
    @in_rollout
    def around(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
        context = current_call_context()
        # In another tool call it is another request of the model's, which has read of the failure.
        key = (context.scope, context.tool, type(instance), getattr(instance, "key", None), repr((args, kwargs)))
        failed = _failed.setdefault(rollout, {})
        if (work := failed.pop(key, None)) is not None:
            work.try_again()
        work = work or open_work(instance)
        try:
            with _inside(work), nullcontext() if isinstance(work, Work) else executing():
                return (yield partial(wrapped, *args, **kwargs))
        except BaseException:
            failed[key] = work
            raise

    return around


def _agent_work(agent: Any) -> Work:
    """Return the work of an agent that is kicked off without a crew; `around_kickoff_run` begins its executions."""
    return Work(subject=agent, agent=agent_name(agent))


def _whole(instance: Any) -> AttemptScope:
    """Return the scope of all that a crew, a flow or a light agent does in one kickoff."""
    context = current_call_context()
    return AttemptScope(parent=context.scope, agent=agent_name(instance) or context.agent, key=instance)


around_kickoff = _kickoff(_agent_work)
around_whole_kickoff = _kickoff(_whole)


@in_rollout
def around_output(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Convert a task's answer; what a guardrail puts in its place is converted again, and the first is superseded."""
    context = current_call_context()
    work = work_at(context.scope)
    if work is None or work.subject is not instance:
        return (yield partial(wrapped, *args, **kwargs))
    if work.output is None:
        work.output = Replaced(parent=work, agent=work.agent, key=around_output)
    work.output.begin()
    with in_scope(work.output):
        return (yield partial(wrapped, *args, **kwargs))


@in_rollout
def around_guardrail(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Judge an answer beside the work it came from: a rejected answer is superseded, its rejection is not."""
    context, work = current_call_context(), work_at(current_call_context().scope)
    beside = AttemptScope(parent=work.parent if work else None, agent=context.agent, key=around_guardrail)
    with in_scope(beside):
        return wrapped(*args, **kwargs)
