"""What happens around each hooked tool call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from crewai.utilities import agent_utils
from crewai.utilities.string_utils import sanitize_tool_name

from woodshed.capture import OpenTool, Rollout, Steps, ToolSpan, current_call_context, in_call_context, in_rollout
from woodshed_crewai._attempts import work_at
from woodshed_crewai._convert import malformed, tool_arguments
from woodshed_crewai._wrappers import requested

_refuses_bad_json = hasattr(agent_utils, "handle_tool_failure")
"""Earlier 1.15 versions ran a tool without arguments in planning steps where the model's were not JSON."""


@contextmanager
def _span(rollout: Rollout, tool_call_id: str | None, name: str, arguments: Any) -> Iterator[ToolSpan]:
    """Record one tool call; a tool written as text was asked for by the latest model call."""
    context = current_call_context()
    work = work_at(context.scope)
    if rollout.recorder.asked_by(tool_call_id) is None and work is not None and work.last_call_id:
        context = context._replace(parent_call_id=work.last_call_id)
    with (
        in_call_context(context),
        ToolSpan(rollout, tool_call_id=tool_call_id, name=name, arguments=arguments) as span,
    ):
        yield span


@in_rollout
def around_native_tool_call(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record a tool call that the model made natively (`AgentExecutor` and `CrewAgentExecutor`)."""
    tool_call_id, name, raw = _native_request(args, kwargs)
    arguments = tool_arguments(raw)
    with _span(rollout, tool_call_id, name, arguments) as span:
        result = _refused(tool_call_id, name, raw) if _must_refuse(raw, arguments) else wrapped(*args, **kwargs)
        failed = result.get("tool_failure") is not None or not isinstance(arguments, dict)
        span.ended(str(result["result"]), is_error=failed or _is_unknown(result))
    return result


@in_rollout
def around_step_tool_call(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record a native tool call of a planning step (`execute_single_native_tool_call`)."""
    tool_call_id, name, raw = _native_request(args, kwargs)
    arguments = tool_arguments(raw)
    with _span(rollout, tool_call_id, name, arguments) as span:
        if _must_refuse(raw, arguments) or (not isinstance(arguments, dict) and not _refuses_bad_json):
            result = _refused_step(tool_call_id, name, raw)
        else:
            result = wrapped(*args, **kwargs)
        is_unknown = name not in kwargs.get("available_functions", ())
        span.ended(str(result.result), is_error=is_unknown or not isinstance(arguments, dict))
    return result


def _native_request(args: Any, kwargs: Any) -> tuple[str | None, str, Any]:
    if "func_name" in kwargs:
        return kwargs["call_id"], kwargs["func_name"], kwargs["func_args"]
    request = agent_utils.extract_tool_call_info(args[0] if args else kwargs["tool_call"])
    return request if request is not None else (None, "unknown", None)


def _must_refuse(raw: Any, arguments: Any) -> bool:
    """Return whether the arguments are JSON but no object, for which CrewAI would run the tool with `{}`."""
    return isinstance(raw, str) and not isinstance(arguments, dict) and _is_json(raw)


def _is_json(raw: str) -> bool:
    return agent_utils.parse_tool_call_args(raw, "", "")[1] is None


def _refused(tool_call_id: str | None, name: str, raw: Any) -> dict[str, Any]:
    told = malformed(name, raw)
    return {"call_id": tool_call_id, "func_name": name, "result": told, "from_cache": False, "original_tool": None}


def _refused_step(tool_call_id: str | None, name: str, raw: Any) -> Any:
    told = malformed(name, raw)
    message = {"role": "tool", "tool_call_id": tool_call_id, "name": name, "content": told}
    return agent_utils.NativeToolCallResult(
        call_id=tool_call_id or "",
        func_name=name,
        result=told,
        tool_message=message,  # type: ignore[arg-type]
    )


def _is_unknown(result: dict[str, Any]) -> bool:
    return result.get("original_tool") is None and not result.get("from_cache")


@in_rollout
def around_text_tool_call(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Record a tool call that the model wrote as text (`execute_tool_and_check_finality` and its async twin)."""
    action = args[0] if args else kwargs["agent_action"]
    with _span(rollout, None, action.tool, action.tool_input) as span:
        result = yield partial(wrapped, *args, **kwargs)
        # `around_text_use` fills in the arguments that were understood; a call that did not get so far was an error.
        span.ended(str(result.result), is_error=not isinstance(span.tool.arguments, dict))
    return result


@in_rollout
def around_text_use(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Note the arguments that CrewAI understood (`ToolUsage._use`, also the async one)."""
    opened, calling = current_call_context().tool, kwargs.get("calling")
    if opened is not None and calling is not None:
        opened.arguments = dict(calling.arguments or {})
    return wrapped(*args, **kwargs)


@in_rollout
def around_text_arguments(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Refuse text that CrewAI repairs into no arguments at all, such as a lone brace."""
    arguments = wrapped(*args, **kwargs)
    text = args[0] if args else kwargs.get("tool_input")
    if arguments == {} and isinstance(text, str) and not re.fullmatch(r"\s*{\s*}\s*", text):
        raise ValueError("Tool input must be a valid dictionary in JSON or Python literal format")
    return arguments


@in_rollout
def around_tool_body(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Note a tool's true exception, or record a tool that is called by hand."""
    opened = _opened_for(instance)
    if opened is None:
        with _span(rollout, None, sanitize_tool_name(instance.name), kwargs or list(args)) as span:
            result = yield partial(wrapped, *args, **kwargs)
            span.ended(str(result))
        return result
    with _noted(opened):
        return (yield partial(wrapped, *args, **kwargs))


def _opened_for(tool: Any) -> OpenTool | None:
    """Return the record that is open for this tool; of two tools with one name CrewAI calls the second `name_2`."""
    opened, name = current_call_context().tool, sanitize_tool_name(tool.name)
    if opened is None:
        return None
    return opened if re.fullmatch(re.escape(name) + r"(_\d+)*", sanitize_tool_name(opened.name)) else None


@contextmanager
def _noted(opened: OpenTool) -> Iterator[None]:
    opened.error = None  # an earlier try's
    try:
        yield
    except BaseException as error:
        opened.close(error=error)
        raise


@in_rollout
def around_function_in_call(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record a tool that CrewAI runs inside the model call itself (`_handle_tool_execution`)."""
    names = ("function_name", "function_args", "available_functions", "from_task", "from_agent")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    name = given["function_name"]
    tool_call_id, written = requested(name)
    arguments = given["function_args"] if written is None else written
    with _span(rollout, tool_call_id, name, arguments) as span:
        if not isinstance(arguments, dict):
            span.ended(malformed(name, arguments), is_error=True)
            return None
        known = dict(given["available_functions"])
        if name in known:
            known[name] = _noting(known[name], span.tool)
        result = wrapped(**{**given, "available_functions": known})
        span.ended(None if result is None else str(result), is_error=result is None)
    return result


def _noting(function: Callable[..., Any], opened: OpenTool) -> Callable[..., Any]:
    def noting(*args: Any, **kwargs: Any) -> Any:
        with _noted(opened):
            return function(*args, **kwargs)

    return noting
