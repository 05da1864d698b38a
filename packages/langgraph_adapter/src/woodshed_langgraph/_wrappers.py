"""What happens around each hooked call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from langchain_openai.chat_models.base import BaseChatOpenAI
from langgraph.errors import GraphBubbleUp

from woodshed.capture import OpenTool, Rollout, ToolSpan, current_call_context, current_rollout, require_rollout
from woodshed.errors import ConfigError
from woodshed_langgraph._convert import to_openai_kwargs, tool_output
from woodshed_langgraph._substitute import Trainable, substitute

_log = logging.getLogger("woodshed.langgraph")


def around_model(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let the policy answer a chat model's call."""
    if isinstance(instance, Trainable):
        return wrapped(*args, **kwargs)
    rollout = require_rollout(f"{type(instance).__name__}.{wrapped.__name__}()")
    if rollout is None:
        return wrapped(*args, **kwargs)
    if not isinstance(instance, BaseChatOpenAI):
        kwargs = to_openai_kwargs(kwargs)
    return getattr(substitute(instance, rollout), wrapped.__name__)(*args, **kwargs)


def around_completions_model(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Stop a legacy text-completion model inside a rollout: the policy speaks chat only."""
    kind = type(instance).__name__
    if require_rollout(f"{kind}.{wrapped.__name__}()") is not None:
        raise ConfigError(
            f"{kind} is a text-completion model, which the policy cannot stand in for; use a chat model, or put the "
            "call inside `with woodshed.untracked():` if it is not to be trained"
        )
    return wrapped(*args, **kwargs)


def around_loop(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Run a graph without its node cache inside a rollout: a cached answer is another policy's."""
    if kwargs.get("cache") is not None and current_rollout() is not None:
        _log.warning("the graph's node cache (%s) is bypassed inside rollouts", type(kwargs["cache"]).__name__)
        kwargs = {**kwargs, "cache": None}
    return wrapped(*args, **kwargs)


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


def _node_span(rollout: Rollout, args: Any, kwargs: Any) -> _ToolSpan:
    call = args[0] if args else kwargs["call"]
    return _ToolSpan(rollout, tool_call_id=call["id"], name=call["name"], arguments=call["args"])


def _tool_span(rollout: Rollout, tool: Any, args: Any, kwargs: Any) -> _ToolSpan | _InnerSpan:
    tool_call_id, opened = kwargs.get("tool_call_id"), current_call_context().tool
    if opened is not None and (opened.tool_call_id, opened.name) == (tool_call_id, tool.name):
        return _InnerSpan(opened)
    arguments = args[0] if args else kwargs.get("tool_input")
    return _ToolSpan(rollout, tool_call_id=tool_call_id, name=tool.name, arguments=arguments)


def around_tool_node(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record one tool call of a tool node."""
    rollout = current_rollout()
    if rollout is None:
        return wrapped(*args, **kwargs)
    with _node_span(rollout, args, kwargs) as span:
        return span.returned(wrapped(*args, **kwargs))


def around_async_tool_node(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record one tool call of a tool node."""
    rollout = current_rollout()
    if rollout is None:
        return wrapped(*args, **kwargs)
    return _awaited(lambda: _node_span(rollout, args, kwargs), wrapped, args, kwargs)


def around_tool(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record a tool's run, or its exception where a tool node records the run."""
    rollout = current_rollout()
    if rollout is None:
        return wrapped(*args, **kwargs)
    with _tool_span(rollout, instance, args, kwargs) as span:
        return span.returned(wrapped(*args, **kwargs))


def around_async_tool(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record a tool's run, or its exception where a tool node records the run."""
    rollout = current_rollout()
    if rollout is None:
        return wrapped(*args, **kwargs)
    return _awaited(lambda: _tool_span(rollout, instance, args, kwargs), wrapped, args, kwargs)


async def _awaited(open_span: Callable[[], _ToolSpan | _InnerSpan], wrapped: Any, args: Any, kwargs: Any) -> Any:
    with open_span() as span:
        return span.returned(await wrapped(*args, **kwargs))
