"""What happens around each hooked tool call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import logging
from functools import partial
from types import TracebackType
from typing import Any, Self

from langgraph.errors import GraphBubbleUp

from woodshed.capture import OpenTool, Rollout, Steps, ToolSpan, current_call_context, in_rollout
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


class _InnerSpan:
    """A tool's run inside a tool node that has opened the record already; it knows the true exception."""

    def __init__(self, tool: OpenTool) -> None:
        """Take the node's record."""
        self.tool = tool

    def __enter__(self) -> Self:
        """Forget the exception of an earlier try."""
        self.tool.error = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note the exception."""
        if error is not None and not isinstance(error, GraphBubbleUp):
            self.tool.close(error=error)

    def returned(self, output: Any) -> Any:
        """Leave the result to the tool node."""
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
        return span.returned((yield partial(wrapped, *args, **kwargs)))


@in_rollout
def around_tool_body(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Record a tool that a node calls by hand, or the true exception of one whose call a tool node records."""
    with _tool_span(rollout, instance, args, kwargs) as span:
        return span.returned((yield partial(wrapped, *args, **kwargs)))
