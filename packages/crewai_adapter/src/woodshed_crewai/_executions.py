"""One execution of an agent, and what becomes of it when nobody waits for it any more.

CrewAI's `max_execution_time`, and anybody who cancels an awaited crew, stop waiting; the thread goes on and asks the
model. What it asks then is recorded, and belongs to no attempt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from woodshed.capture import AttemptScope, OpenCall, Rollout, Steps, current_call_context, in_rollout, in_scope
from woodshed.types import Failure

_log = logging.getLogger("woodshed.crewai")


class Execution(AttemptScope):
    """An execution in progress: what starts the same work inside it is work of its own, and no further attempt."""

    def __init__(self, *, timeout_s: float | None = None) -> None:
        """Begin an execution as a part of the current work; `timeout_s` is how long CrewAI waits for it."""
        context = current_call_context()
        super().__init__(parent=context.scope, agent=context.agent, key=Execution)
        self._ends_at = time.monotonic() + timeout_s if timeout_s is not None else None
        self._in_flight: set[OpenCall] = set()
        self._late: set[OpenCall] = set()
        self._is_abandoned = False

    def add(self, call: OpenCall) -> None:
        """Count a call, unless nobody waits for this execution any more."""
        if self._is_abandoned:
            _give_up(call, self.agent)
        else:
            super().add(call)

    def began(self, call: OpenCall) -> None:
        """Note that a call waits for its answer."""
        self._in_flight.add(call)

    def ended(self, call: OpenCall) -> None:
        """Note that a call's answer came, or that it failed."""
        self._in_flight.discard(call)
        if self._ends_at is not None and time.monotonic() > self._ends_at:
            self._late.add(call)

    def abandon(self, error: BaseException) -> None:
        """Note that nobody waits for the execution any more: what comes from it now is late."""
        self._is_abandoned = True
        # CrewAI waits for the thread before it reports a timeout: by then a late answer has come.
        for call in self._in_flight | (self._late if isinstance(error, TimeoutError) else set()):
            _give_up(call, self.agent)


def _give_up(call: OpenCall, agent: str | None) -> None:
    call.superseded = True
    if call.error is None:
        call.error = Failure(kind="Abandoned", message="its execution was given up on before this answer came")
        _log.warning(
            "an answer for %r came after its execution was given up on (max_execution_time or a cancelled kickoff): "
            "call %s is recorded and not trained. Allow more time, or let the execution make fewer calls",
            call.agent or agent,
            call.call_id,
        )


@contextmanager
def executing(timeout_s: float | None = None) -> Iterator[None]:
    """Run a block as an execution of the current work."""
    execution = Execution(timeout_s=timeout_s)
    try:
        with in_scope(execution):
            yield
    except BaseException as error:
        execution.abandon(error)
        raise


@contextmanager
def in_flight(call: OpenCall) -> Iterator[None]:
    """Let the executions that a call is part of know how long it is in flight."""
    scope, around = current_call_context().scope, []
    while scope is not None:
        if isinstance(scope, Execution):
            around.append(scope)
        scope = scope.parent
    for execution in around:
        execution.began(call)
    try:
        yield
    finally:
        for execution in around:
            execution.ended(call)


@in_rollout
def around_execution(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Run an agent's loop as an execution."""
    with executing():
        return (yield lambda: wrapped(*args, **kwargs))


@in_rollout
def around_timed_execution(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Run an agent's loop for `max_execution_time` (`_execute_with_timeout(task_prompt, task, timeout)`)."""
    with executing(args[2] if len(args) > 2 else kwargs["timeout"]):
        return (yield lambda: wrapped(*args, **kwargs))
