"""Messages as files have them → OpenAI's shape; what cannot be read says so, and what is unknown is named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from woodshed.traces.conversation import Json

_ROLES = {
    "system": "system", "developer": "developer", "user": "user", "human": "user", "assistant": "assistant",
    "ai": "assistant", "model": "assistant", "gpt": "assistant", "tool": "tool", "function": "tool",
}  # fmt: skip
_KEPT = ("name", "tool_call_id", "weight")
_NO_EFFECT = {"role", "content", "tool_calls", "function_call", "reasoning", "reasoning_content"} | {
    "annotations", "audio", "cache_control", "id", "parsed", "provider_specific_fields", "refusal",
}  # fmt: skip
_KINDS = ", ".join(sorted(set(_ROLES)))


class Unreadable(ValueError):
    """A value that is not what its format says; the message names the part, what it is and what was expected."""


def shaped_messages(values: Any, where: str = "messages") -> tuple[list[Json], list[str]]:
    """Return messages in OpenAI's shape, and the names of the fields that were left out.

    Raises:
        Unreadable: a message has no known role, or content or a tool call cannot be read.
    """
    if not isinstance(values, list) or not values:
        raise Unreadable(f"{where} is {_shown(values)}; expected a list of at least one message")
    unknown: list[str] = []
    messages = [_message(value, f"{where}[{number}]", unknown) for number, value in enumerate(values)]
    return messages, unknown


def shaped_tools(values: Any, where: str = "tools") -> list[Json]:
    """Return tools in OpenAI's shape; those written without `{"type": "function", …}` around them get it.

    Raises:
        Unreadable: a tool has no name.
    """
    if values in (None, [], ()):
        return []
    if not isinstance(values, list):
        raise Unreadable(f"{where} is {_shown(values)}; expected a list of tools")
    return [_tool(value, f"{where}[{number}]") for number, value in enumerate(values)]


def _message(value: Any, where: str, unknown: list[str]) -> Json:
    if not isinstance(value, Mapping):
        raise Unreadable(f"{where} is {_shown(value)}; expected an object with role and content")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise Unreadable(f"{where}.role is {_shown(role)}; expected one of {_KINDS}")
    message: Json = {"role": _ROLES[role], "content": _content(value.get("content"), f"{where}.content")}
    if calls := _tool_calls(value, where):
        message["tool_calls"] = calls
    for key in _KEPT:
        if value.get(key) is not None:
            message[key] = value[key]
    for key in ("name", "tool_call_id"):
        if not isinstance(message.get(key, ""), str):
            raise Unreadable(f"{where}.{key} is {_shown(message[key])}; expected text")
    reasoning = value.get("reasoning", value.get("reasoning_content"))
    if isinstance(reasoning, str) and message["role"] == "assistant":
        message["reasoning"] = reasoning
    if message["content"] is None and message["role"] != "assistant":
        message["content"] = ""
    unknown += [f"message.{key}" for key in value if key not in _NO_EFFECT and key not in _KEPT]
    return message


def _content(content: Any, where: str) -> Any:
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return [_part(part, f"{where}[{number}]") for number, part in enumerate(parts)]


def _part(part: Any, where: str) -> Json:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise Unreadable(f"{where} is {_shown(part)}; expected text or a part with a type")
    if part["type"] in ("text", "input_text", "output_text"):
        if not isinstance(part.get("text"), str):
            raise Unreadable(f"{where}.text is {_shown(part.get('text'))}; expected text")
        return {"type": "text", "text": part["text"]}
    return dict(part)


def _tool_calls(value: Mapping[str, Any], where: str) -> list[Json]:
    calls = value.get("tool_calls") or []
    if not isinstance(calls, list):
        raise Unreadable(f"{where}.tool_calls is {_shown(calls)}; expected a list of tool calls")
    if not calls and isinstance(legacy := value.get("function_call"), Mapping):
        calls = [{"id": "", "function": legacy}]
    return [_tool_call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> Json:
    function = call.get("function") if isinstance(call, Mapping) else None
    if isinstance(call, Mapping) and not isinstance(function, Mapping):
        function = call  # LangChain's and Anthropic's order: name and arguments beside the id
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Unreadable(f"{where} is {_shown(call)}; expected a function's name and arguments")
    arguments = function.get("arguments", function.get("args", function.get("input")))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    id = call.get("id") or call.get("tool_call_id") or ""
    return {"id": str(id), "type": "function", "function": {"name": function["name"], "arguments": text}}


def _tool(value: Any, where: str) -> Json:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Unreadable(f"{where} is {_shown(value)}; expected a function tool with a name")
    parameters = function.get("parameters", function.get("input_schema")) or {}
    shape: Json = {"name": function["name"], "description": function.get("description") or "", "parameters": parameters}
    if not isinstance(parameters, Mapping) or not isinstance(shape["description"], str):
        raise Unreadable(f"{where} is {_shown(value)}; expected parameters as a JSON schema, and a description as text")
    if function.get("strict") is not None:
        shape["strict"] = function["strict"]
    return {"type": "function", "function": shape}


def first_text(messages: Iterable[Json]) -> Json | None:
    """Return the first message of the user, or None."""
    return next((message for message in messages if message["role"] == "user"), None)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
