"""What happens around each hooked tool call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import logging
from functools import partial
from types import TracebackType
from typing import Any, Self

from langgraph.errors import GraphBubbleUp

from woodshed.capture import OpenTool, Rollout, Steps, ToolSpan, current_call_context, in_rollout, in_scope
from woodshed_langgraph._answers import Ask, tool_answers
from woodshed_langgraph._attempts import Scope
from woodshed_langgraph._convert import tool_output

_log = logging.getLogger("woodshed.langgraph")


class _ToolSpan(ToolSpan):
    """One tool call from its start to its end; an interrupt is no error."""

    def __init__(self, rollout: Rollout, *, tool_call_id: str | None, name: str, arguments: Any) -> None:
        """Open the record."""
        super().__init__(
            rollout, tool_call_id=tool_call_id, name=name, arguments=arguments, control_flow=(GraphBubbleUp,)
        )

    def returned(self, output: Any) -> Any:
        """Note the result and return it."""
        try:
            text, is_error = tool_output(output, self.tool.tool_call_id)
        except Exception:
            _log.exception("the result of tool %r cannot be recorded", self.tool.name)
            text, is_error = None, False
        self.ended(text, is_error=is_error)
        return output


class _NodeScope(Scope):
    """One tool call of a tool node; a middleware may run the tool more than once for it."""

    def __init__(self, tool: OpenTool) -> None:
        """Begin as a part of the node."""
        context = current_call_context()
        super().__init__(parent=context.scope, agent=context.agent, key=tool)
        self.runs_of_tool = Ask()


class _InnerSpan:
    """A tool's run inside a tool node that has opened the record already; it knows the true exception."""

    def __init__(self, tool: OpenTool) -> None:
        """Take the node's record."""
        context = current_call_context()
        self.tool = tool
        self._scope = Scope(parent=context.scope, agent=context.agent, key=None)
        self._ask = context.scope.runs_of_tool.part() if isinstance(context.scope, _NodeScope) else Ask()
        self._context = in_scope(self._scope)

    def __enter__(self) -> Self:
        """Forget the exception of an earlier try."""
        self.tool.error = None
        self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note the exception, and the calls made in this run."""
        self._context.__exit__(kind, error, trace)
        self._ask.own_calls += self._scope.counted()
        if error is not None and not isinstance(error, GraphBubbleUp):
            self._ask.failed = True
            self.tool.close(error=error)

    def returned(self, output: Any) -> Any:
        """Leave the result to the tool node."""
        self._ask.answers += tool_answers(output)
        return output


def _tool_span(rollout: Rollout, tool: Any, args: Any, kwargs: Any) -> _ToolSpan | _InnerSpan:
    tool_call_id, opened = kwargs.get("tool_call_id"), current_call_context().tool
    if opened is not None and (opened.tool_call_id, opened.name) == (tool_call_id, tool.name):
        return _InnerSpan(opened)
    arguments = args[0] if args else kwargs.get("tool_input")
    return _ToolSpan(rollout, tool_call_id=tool_call_id, name=tool.name, arguments=arguments)


@in_rollout
def around_tool_call(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Record one tool call of a tool node: what the model asked, and what it is told."""
    call = args[0] if args else kwargs["call"]
    with _ToolSpan(rollout, tool_call_id=call["id"], name=call["name"], arguments=call["args"]) as span:
        scope = _NodeScope(span.tool)
        try:
            with in_scope(scope):
                output = yield partial(wrapped, *args, **kwargs)
        except GraphBubbleUp:
            raise
        except Exception:
            scope.runs_of_tool.settle(scope, None)
            raise
        scope.runs_of_tool.settle(scope, tool_answers(output))
        return span.returned(output)


@in_rollout
def around_tool_body(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Record a tool that a node calls by hand, or the true exception of one whose call a tool node records."""
    with _tool_span(rollout, instance, args, kwargs) as span:
        return span.returned((yield partial(wrapped, *args, **kwargs)))
