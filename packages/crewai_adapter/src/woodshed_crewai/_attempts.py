"""Which of several attempts at the same work a call belongs to.

Five things try again: a task or an agent whose guardrail rejects the answer, an agent whose execution failed
(`max_retry_limit`), a converter whose answer does not fit the output model, and a model call that was throttled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from woodshed.capture import (
    Around,
    AttemptScope,
    OpenCall,
    Rollout,
    Steps,
    current_call_context,
    in_call_context,
    in_rollout,
)
from woodshed_crewai._convert import agent_name, task_name


class Work(AttemptScope):
    """A piece of a crew's work: a task, an agent's run at it, or a conversion of its answer."""

    def __init__(self, *, subject: Any, agent: str | None, task: str | None = None, key: Any = None) -> None:
        """Begin work on `subject` (the task, or the agent of a kickoff) as a part of the work around it."""
        parent = current_call_context().scope
        super().__init__(parent=parent, agent=agent or (parent.agent if parent else None), key=key or (subject,))
        self.subject = subject
        self.task = task or getattr(work_at(parent), "task", None)
        self.runs = 0
        self.last_call_id: str | None = None
        """The latest model call: in text mode, the one that asks for the next tool."""

    def add(self, call: OpenCall) -> None:
        """Count a call."""
        self.last_call_id = call.call_id
        super().add(call)

    def begin_run(self) -> None:
        """Count a run of an agent at this subject; a further one supersedes the answers of the last one."""
        self.runs += 1
        if self.runs > 1:
            self.try_again()


def work_at(scope: AttemptScope | None) -> Work | None:
    """Return the innermost work that `scope` is a part of."""
    while scope is not None and not isinstance(scope, Work):
        scope = scope.parent
    return scope


@contextmanager
def _inside(work: Work) -> Iterator[None]:
    with in_call_context(replace(current_call_context(), scope=work)):
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


def _kickoff_work(instance: Any, args: Any, kwargs: Any) -> Work:
    """Return the work of an agent that is kicked off without a crew."""
    return Work(subject=instance, agent=agent_name(instance))


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


def _around(open_work: Callable[[Any, Any, Any], Work]) -> Around:
    @in_rollout
    def around(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
        with _inside(open_work(instance, args, kwargs)):
            return (yield partial(wrapped, *args, **kwargs))

    return around


around_task = _around(_task_work)
around_run = _around(_run_work)
around_kickoff = _around(_kickoff_work)
around_kickoff_run = _around(_kickoff_run_work)
around_same_again = _around(_same_again_work)


@in_rollout
def around_guardrail(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Judge an answer beside the work it came from: a rejected answer is superseded, its rejection is not."""
    context, work = current_call_context(), work_at(current_call_context().scope)
    beside = AttemptScope(parent=work.parent if work else None, agent=context.agent, key=around_guardrail)
    with in_call_context(replace(context, scope=beside)):
        return wrapped(*args, **kwargs)


@contextmanager
def one_call(llm: Any) -> Iterator[AttemptScope]:
    """Let everything inside be attempts at one logical model call: CrewAI repeats a throttled one."""
    context = current_call_context()
    scope = AttemptScope(parent=context.scope, agent=context.agent, key=llm)
    with in_call_context(replace(context, scope=scope)):
        yield scope
    scope.succeed()
