"""What happens around each hooked tool call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from google.adk.workflow._errors import NodeInterruptedError

from woodshed.capture import (
    AttemptScope,
    Rollout,
    Steps,
    ToolSpan,
    current_call_context,
    in_rollout,
    in_scope,
)
from woodshed_adk._convert import dumps, told_text

_log = logging.getLogger("woodshed.adk")


class _ToolSpan(ToolSpan):
    """One tool call of an agent; an interrupt is no error."""

    def __init__(self, rollout: Rollout, agent: str, call: Any) -> None:
        """Open the record."""
        context = current_call_context()
        with in_scope(AttemptScope(parent=context.scope, agent=agent, key=call.id)):
            super().__init__(
                rollout,
                tool_call_id=call.id,
                name=call.name,
                arguments=call.args or {},
                control_flow=(NodeInterruptedError,),
            )

    def answered(self, event: Any) -> None:
        """Note what the model is told; no event means that the answer comes later."""
        try:
            responses = event.get_function_responses() if event is not None else ()
            told = responses[0].response if responses else None
            asks_first = bool(event is not None and event.actions.requested_tool_confirmations)
            is_error = isinstance(told, dict) and bool(told.get("error")) and not asks_first
            self.ended(told_text(told) if responses else None, is_error=is_error)
        except Exception:
            _log.exception("the result of tool %r cannot be recorded", self.tool.name)


@in_rollout
def around_tool_call(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Record one tool call, with all its callbacks: what the model asked, and what it is told."""
    prepared = args[1] if len(args) > 1 else kwargs["prepared_call"]
    agent = args[2] if len(args) > 2 else kwargs["agent"]
    with _ToolSpan(rollout, agent.name, prepared.function_call) as span:
        event = yield partial(wrapped, *args, **kwargs)
        span.answered(event)
    return event


@in_rollout
def around_tool_body(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Note a tool's true exception, which a callback or a plugin may turn into an answer."""
    opened = current_call_context().tool
    try:
        return (yield partial(wrapped, *args, **kwargs))
    except Exception as error:
        if opened is not None and not isinstance(error, NodeInterruptedError):
            opened.close(error=error)
        raise


@in_rollout
def around_task_call(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Record a task given to a sub-agent: a function call that ADK answers without running a tool."""
    parent, call = args[0], args[1]
    with _ToolSpan(rollout, parent.name, call) as span:
        output = yield partial(wrapped, *args, **kwargs)
        span.ended(dumps(output if isinstance(output, dict) else {"output": output}))
    return output
