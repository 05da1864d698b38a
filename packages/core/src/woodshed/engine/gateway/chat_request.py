"""A chat completion request, checked: what is served as requested, and nothing that would silently be ignored.

Each key of a request is passed on, or dropped and logged, or refused with a 400 that names it: the table is
`woodshed.types.chat_settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from woodshed.types.chat_settings import REQUEST_SETTINGS, is_idle

_NUMBERS = {
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "min_tokens", "n", "seed",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "top_logprobs",
}  # fmt: skip
_SAMPLING = (_NUMBERS - {"top_logprobs"}) | {"stop", "stop_token_ids", "ignore_eos"}
# Parameter → the value at which it leaves the distribution unchanged. Temperature alone does not describe the others.
_NEUTRAL = {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "min_tokens": 0, "min_p": 0}

_MAX_DEPTH = 100
"""Deepest nesting of a part of a request: a tool's schema has some 20 levels."""
_ROLES = ("system", "user", "assistant", "tool")
_MESSAGE_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content"}
_MESSAGE_TEXTS = ("name", "tool_call_id", "reasoning", "reasoning_content")
_MESSAGE_NO_EFFECT = {"annotations", "cache_control", "id", "parsed", "provider_specific_fields", "refusal"}


class BadRequest(Exception):
    """A request that is answered with status 400, in OpenAI's shape."""

    def __init__(self, message: str, param: str | None = None) -> None:
        """Describe what is wrong, and name the part of the request."""
        super().__init__(message)
        self.message = message
        self.param = param


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """A request that can be served, as it goes to vLLM."""

    body: dict[str, Any]
    """The caller's request without keys that have no effect; `model` is filled in when the call is sent."""
    model: str
    """The model name that the caller used; the answer carries it."""
    stream: bool
    wants_logprobs: bool
    """Whether the caller asked for log-probabilities, which are otherwise removed from the answer."""
    constrained: bool
    """Whether anything but temperature, top_p and top_k shapes the distribution, such as a grammar or a penalty."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Settings of the request that are without effect on the policy, and why each is left out."""


def parse_request(raw: bytes) -> ChatRequest:
    """Return the request in an HTTP body.

    Raises:
        BadRequest: The body is not JSON, or a part of it cannot be served.
    """
    try:
        request = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest(f"the body is nested too deep; expected at most {_MAX_DEPTH} levels") from None
    if not isinstance(request, dict):
        raise BadRequest(f"the body is a {type(request).__name__}, expected a JSON object")
    may_be_deep = raw.count(b"{") + raw.count(b"[") > _MAX_DEPTH  # few requests have so many at all
    if may_be_deep and (deep := next((key for key, value in request.items() if _is_deep(value)), None)):
        raise BadRequest(f"{deep!r} is nested too deep; expected at most {_MAX_DEPTH} levels", deep)
    body, dropped = _served_keys(request)
    model = body.pop("model", None)
    if not isinstance(model, str) or not model:
        raise BadRequest(f"'model' is {model!r}, expected a name", "model")
    body["messages"] = _messages(body.get("messages"))
    _check_tools(body)
    _check_response_format(body.get("response_format"))
    _check_stream(body)
    if body.get("tools") and "tool_choice" not in body:
        body["tool_choice"] = "auto"
    return ChatRequest(
        body=body,
        model=model,
        stream=body.get("stream", False),
        wants_logprobs=bool(body.get("logprobs")),
        constrained=_is_constrained(body),
        dropped=dropped,
    )


def check_sampling(sampling: Mapping[str, Any]) -> None:
    """Raise BadRequest if a session's overrides contain something that is not a sampling parameter."""
    unknown = sorted(set(sampling) - _SAMPLING)
    if unknown:
        raise BadRequest(f"sampling overrides {unknown} are not known; known are {sorted(_SAMPLING)}", unknown[0])
    _check_numbers(sampling)


def with_sampling(request: ChatRequest, sampling: Mapping[str, Any]) -> ChatRequest:
    """Return the request with a session's overrides, which win over the caller's own values.

    Where there are overrides the caller's seed is dropped: with it, all rollouts of a group would get the same answer,
    and there would be nothing to learn from.
    """
    if not sampling:
        return request
    body = {key: value for key, value in request.body.items() if key != "seed"}
    if "max_tokens" in sampling or "max_completion_tokens" in sampling:
        body.pop("max_tokens", None)
        body.pop("max_completion_tokens", None)
    body.update(sampling)
    return replace(request, body=body, constrained=_is_constrained(body))


def sampling_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters in effect; `temperature` and `top_p` are always included."""
    sampling = {"temperature": 1.0, "top_p": 1.0} | {key: body[key] for key in _SAMPLING & body.keys()}
    if "max_completion_tokens" in sampling:
        sampling["max_tokens"] = sampling.pop("max_completion_tokens")
    return sampling


def _served_keys(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields that are served, under vLLM's names, and those left out with the reason."""
    body: dict[str, Any] = {}
    dropped: dict[str, str] = {}
    for key, value in request.items():
        row = REQUEST_SETTINGS.get(key)
        if value is None or (row is not None and row.idle and is_idle(value, row)):
            continue
        if row is None:
            raise BadRequest(f"{key!r} is not served by this engine; leave it out", key)
        if row.fate == "refused":
            raise BadRequest(f"{key!r} is not served by this engine: {row.why}; leave it out", key)
        if row.fate == "dropped":
            dropped[key] = row.why
        elif row.to is None:
            body[key] = value
    for key, value in request.items():
        row = REQUEST_SETTINGS.get(key)
        if row is not None and row.to is not None and value is not None:
            body.setdefault(row.to, value)
    _check_numbers(body)
    _check_kind(body.get("chat_template_kwargs", {}), dict, "chat_template_kwargs")
    _check_kind(body.get("structured_outputs", {}), dict, "structured_outputs")
    for key in ("stream", "logprobs", "parallel_tool_calls", "ignore_eos"):
        if key in body and not isinstance(body[key], bool):
            raise BadRequest(f"{key!r} is {body[key]!r}, expected true or false", key)
    return body, dropped


def _check_numbers(body: Mapping[str, Any]) -> None:
    for key in _NUMBERS & body.keys():
        if isinstance(body[key], bool) or not isinstance(body[key], int | float):
            raise BadRequest(f"{key!r} is {body[key]!r}, expected a number", key)


def _messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' is missing or empty; expected a list of at least one message", "messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise BadRequest(f"{where} is {message!r}, expected an object", where)
    # OpenAI's newer name of the system role; chat templates know only the older.
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in _ROLES:
        raise BadRequest(f"{where}.role is {role!r}, expected one of {_ROLES}", f"{where}.role")
    checked = {"role": role}
    for key, value in message.items():
        if value is None or key == "role" or (key in _MESSAGE_NO_EFFECT):
            continue
        if key not in _MESSAGE_KEYS:
            raise BadRequest(f"{where}.{key} is not served by this engine; leave it out", f"{where}.{key}")
        checked[key] = value
    for key in _MESSAGE_TEXTS:
        if key in checked:  # asked first: a conversation has many messages, and few of these
            _check_kind(checked[key], str, f"{where}.{key}")
    content = checked["content"] = _content(checked.get("content"), where)
    if content is None and role != "assistant":
        raise BadRequest(f"{where}.content is missing; a {role!r} message needs one", f"{where}.content")
    if "tool_calls" in checked:
        _check_tool_calls(checked["tool_calls"], where)
    return checked


def _content(content: Any, where: str) -> Any:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest(f"{where}.content is a {type(content).__name__}, expected text", f"{where}.content")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise BadRequest(
                f"{where}.content has a part of type {kind!r}; this engine serves text", f"{where}.content"
            )
    return [{"type": "text", "text": part["text"]} for part in content]


def _check_tool_calls(calls: Any, where: str) -> None:
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function") if isinstance(call, dict) else None
        if (
            not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
            or not isinstance(function.get("arguments"), str)
        ):
            raise BadRequest(f"{where}.tool_calls holds {call!r}; expected a function call", f"{where}.tool_calls")
        _check_kind(call.get("id") or "", str, f"{where}.tool_calls.id")


def _check_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools", [])
    for tool in tools if isinstance(tools, list) else [tools]:
        function = tool.get("function") if isinstance(tool, dict) else None
        if (
            not isinstance(function, dict)
            or tool.get("type") != "function"
            or not isinstance(function.get("name"), str)
        ):
            raise BadRequest(f"'tools' holds {tool!r}; this engine serves tools of type 'function'", "tools")
        where = f"tools.{function['name']}"
        _check_kind(function.get("description") or "", str, f"{where}.description")
        _check_kind(function.get("parameters") or {}, dict, f"{where}.parameters")
    choice = body.get("tool_choice", "auto")
    named = isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("function"), dict)
    if not named and choice not in ("auto", "none", "required"):
        raise BadRequest(
            f"'tool_choice' is {choice!r}; expected auto, none, required or a named function", "tool_choice"
        )


def _check_kind(value: Any, kind: type, where: str) -> None:
    if not isinstance(value, kind):
        expected = "text" if kind is str else "an object"
        raise BadRequest(f"{where!r} is {value!r}, expected {expected}", where)


def _is_deep(value: Any) -> bool:
    """Whether a value nests deeper than `_MAX_DEPTH`; templates and parsers recurse into it."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _check_response_format(response_format: Any) -> None:
    kind = response_format.get("type") if isinstance(response_format, dict) else response_format
    if kind not in (None, "text", "json_object", "json_schema"):
        raise BadRequest(
            f"'response_format' is {kind!r}; this engine serves text, json_object and json_schema", "response_format"
        )


def _check_stream(body: dict[str, Any]) -> None:
    options = body.get("stream_options", {})
    if not isinstance(options, dict):
        raise BadRequest(f"'stream_options' is {options!r}, expected an object", "stream_options")
    unknown = sorted(set(options) - {"include_usage", "include_obfuscation"})
    if unknown:
        raise BadRequest(f"'stream_options.{unknown[0]}' is not served by this engine", f"stream_options.{unknown[0]}")
    if "stream_options" in body:
        body["stream_options"] = {"include_usage": bool(options.get("include_usage"))}


def _is_constrained(body: Mapping[str, Any]) -> bool:
    response_type = body.get("response_format", {}).get("type", "text")
    choice = body.get("tool_choice", "none")
    # With a strict tool, vLLM constrains the arguments by a grammar.
    strict = any(tool["function"].get("strict") is True for tool in body.get("tools", ()))
    return (
        response_type != "text"
        or "structured_outputs" in body
        or isinstance(choice, dict)
        or choice == "required"
        or (choice == "auto" and strict)
        or any(body[key] != _NEUTRAL[key] for key in _NEUTRAL.keys() & body.keys())
    )
