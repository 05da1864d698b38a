"""CrewAI's objects → what an OpenAI-compatible engine takes, and what woodshed records. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from woodshed.capture import policy_params, provider_tool
from woodshed.errors import ConfigError

_NAME_LENGTH = 80


def to_params(params: Mapping[str, Any], headers: dict[str, str], stop: Iterable[str] = ()) -> dict[str, Any]:
    """Return the arguments of one chat completion as the policy takes them.

    Args:
        params: what CrewAI would send to the author's provider.
        headers: sent along. Kept as the object it is, so that a later change of it reaches the next request.
        stop: where CrewAI will cut the answer. The model stops there too, and the stop word stays in its answer for
            CrewAI to cut: what it cuts, it also strips.

    Raises:
        ConfigError: the request holds what only a provider can serve.
    """
    kept = policy_params(params)
    check_messages(kept.get("messages") or ())
    if kept.get("tools"):
        kept["tools"] = [_to_tool(tool) for tool in kept["tools"]]
    if stop and not kept.get("stop"):
        kept["stop"] = list(stop)
        kept["extra_body"] = {**(kept.get("extra_body") or {}), "include_stop_str_in_output": True}
    headers.update(kept.get("extra_headers") or {})
    kept["extra_headers"] = headers
    return kept


def check_messages(messages: Iterable[Any]) -> None:
    """Raise `ConfigError` where a message holds more than text."""
    for message in messages:
        content = message.get("content")
        parts = [part.get("type") for part in content if isinstance(part, Mapping)] if isinstance(content, list) else ()
        kinds = [repr(kind) for kind in parts if kind != "text"] or (["'files'"] if message.get("files") else [])
        if kinds:
            raise ConfigError(
                f"a {message.get('role')!r} message has a part of type {', '.join(sorted(set(kinds)))}; the policy "
                "reads text. Leave files and images out of what is practised, or put the call inside "
                "`with woodshed.untracked():`"
            )


def _to_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool without `strict`.

    CrewAI sets it on every tool. It would constrain decoding, and what was sampled under a constraint is not trained.
    """
    if tool.get("type") != "function":
        raise ConfigError(provider_tool(tool.get("type")))
    function = {name: value for name, value in tool["function"].items() if name != "strict"}
    return {**tool, "function": function}


def model_name(llm: Any) -> str:
    """Return the model the author named, else the class of the author's model."""
    name = llm if isinstance(llm, str) else getattr(llm, "model", None)
    return name if isinstance(name, str) and name else type(llm).__name__


def agent_name(agent: Any) -> str | None:
    """Return an agent's role."""
    role = getattr(agent, "role", None)
    return role.strip() if isinstance(role, str) else None


def task_name(task: Any) -> str | None:
    """Return a task's name, else the beginning of its description."""
    name = getattr(task, "name", None) or getattr(task, "description", None)
    return " ".join(name.split())[:_NAME_LENGTH] if isinstance(name, str) else None


def tool_arguments(raw: Any) -> Any:
    """Return the arguments of a tool call as a dict, or as they are where they are not a JSON object."""
    if not isinstance(raw, str):
        return raw
    try:
        parsed = json.loads(raw)
    except ValueError:
        return raw
    return parsed if isinstance(parsed, dict) else raw


def malformed(name: str, raw: Any) -> str:
    """Return what the model is told of arguments that are not a JSON object."""
    return (
        f"Error: Failed to parse tool arguments as JSON: expected an object, got {str(raw)[:200]!r}. "
        f"Please provide valid JSON arguments for the '{name}' tool."
    )


def requested_tools(answer: Any) -> Iterable[tuple[str, Any]]:
    """Yield (id, request) of every tool call in an answer of `BaseLLM.call`."""
    for request in answer if isinstance(answer, list) else ():
        tool_call_id = request.get("id") if isinstance(request, Mapping) else getattr(request, "id", None)
        if isinstance(tool_call_id, str):
            yield tool_call_id, request
