"""An ADK model request → the body of a chat completion. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from google.genai import types

from woodshed.capture import note_model_settings, policy_params
from woodshed.errors import ConfigError
from woodshed_adk._convert_schema import schema_name, to_json_schema, to_openai_tools

Recall = Callable[[types.Content, list[dict[str, Any]]], dict[str, Any] | None]
"""Returns the model's own message that a content was made from, or None where it was changed; takes the content and the
messages before it."""

_SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "max_output_tokens": "max_tokens", "stop_sequences": "stop",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty", "seed": "seed",
    "response_logprobs": "logprobs", "logprobs": "top_logprobs",
}  # fmt: skip
_HTTP = {"extra_body", "headers", "retry_options"}
_HANDLED = {
    *_SAMPLING, "top_k", "system_instruction", "tools", "tool_config", "response_schema", "response_json_schema",
    "response_mime_type", "response_modalities", "candidate_count", "cached_content", "automatic_function_calling",
    "labels", "http_options",
}  # fmt: skip


def to_body(request: Any, recall: Recall) -> dict[str, Any]:
    """Return what an engine is asked, in the arguments of the OpenAI SDK, without a model's name.

    Raises:
        ConfigError: the request wants what a chat completion of text cannot give.
    """
    config = request.config or types.GenerateContentConfig()
    _refuse(config)
    body = {
        "messages": to_messages(request.contents, config.system_instruction, recall),
        **_tools(config),
        **{
            word: value
            for name, word in _SAMPLING.items()
            if (value := getattr(config, name)) is not None and value != []
        },
        **_response_format(config),
    }
    beside = {} if config.top_k is None else {"top_k": int(config.top_k)}
    http = config.http_options or types.HttpOptions()
    note_model_settings({name: getattr(http, name) for name in http.model_fields_set - _HTTP})
    carried = {"extra_headers": http.headers, "extra_body": {**beside, **(http.extra_body or {})}}
    return {**policy_params(carried), **body}


def _refuse(config: types.GenerateContentConfig) -> None:
    if config.candidate_count not in (None, 1):
        raise ConfigError(f"the agent asks for candidate_count={config.candidate_count}; the policy gives one answer")
    modalities = [str(getattr(wanted, "value", wanted)).upper() for wanted in config.response_modalities or ()]
    if modalities not in ([], ["TEXT"]):
        raise ConfigError(f"the agent asks for response_modalities={modalities}; the policy answers in text only")
    if config.cached_content:
        raise ConfigError(
            f"the agent uses the cached content {config.cached_content!r}, which only Google's servers have; remove it"
        )
    note_model_settings({name: getattr(config, name) for name in config.model_fields_set - _HANDLED})


def _tools(config: types.GenerateContentConfig) -> dict[str, Any]:
    calling = config.tool_config.function_calling_config if config.tool_config else None
    allowed = calling.allowed_function_names if calling else None
    tools = to_openai_tools(config.tools, allowed or None)
    if not tools:
        return {}
    modes, mode = types.FunctionCallingConfigMode, calling.mode if calling else None
    if mode == modes.NONE:
        return {"tools": tools, "tool_choice": "none"}
    if mode != modes.ANY:
        return {"tools": tools}
    named = {"type": "function", "function": {"name": tools[0]["function"]["name"]}}
    return {"tools": tools, "tool_choice": named if allowed and len(tools) == 1 else "required"}


def _response_format(config: types.GenerateContentConfig) -> dict[str, Any]:
    schema = config.response_schema if config.response_schema is not None else config.response_json_schema
    if schema is not None:
        return {"response_format": to_response_format(schema)}
    if config.response_mime_type == "application/json":
        return {"response_format": {"type": "json_object"}}
    return {}


def to_response_format(schema: Any) -> dict[str, Any]:
    """Return the format of a schema in any of the forms that ADK and LiteLLM take."""
    form = {"name": schema_name(schema), "schema": to_json_schema(schema)}
    return {"type": "json_schema", "json_schema": form}


def to_messages(contents: Iterable[types.Content], instruction: Any, recall: Recall) -> list[dict[str, Any]]:
    """Return a conversation as OpenAI messages; the model's own are replayed word for word where unchanged."""
    pairs, messages = _Pairs(), []
    if text := _system_text(instruction):
        messages.append({"role": "system", "content": text})
    for content in contents or ():
        if content.role in ("model", "assistant"):
            messages += _assistant(content, pairs, recall, messages)
        else:
            messages += _others(content, pairs)
    return messages


def _system_text(instruction: Any) -> str:
    if not instruction or isinstance(instruction, str):
        return instruction or ""
    if isinstance(instruction, list):
        return "\n".join(text for item in instruction if (text := _system_text(item)))
    if isinstance(instruction, dict):
        instruction = (types.Content if "parts" in instruction else types.Part).model_validate(instruction)
    parts = instruction.parts or () if isinstance(instruction, types.Content) else (instruction,)
    return "".join(_text(part) for part in parts)


class _Pairs:
    """Pairs tool calls and answers by id; by name and order where ADK has stripped the ids it made itself."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str | None, str]] = []
        self._seen = 0

    def asked(self, call: types.FunctionCall) -> str:
        self._seen += 1
        tool_call_id = call.id or f"call_{self._seen}"
        self._waiting.append((call.name, tool_call_id))
        return tool_call_id

    def answered(self, response: types.FunctionResponse) -> str:
        for index, (name, tool_call_id) in enumerate(self._waiting):
            if tool_call_id == response.id or (not response.id and name == response.name):
                del self._waiting[index]
                return tool_call_id
        return response.id or f"call_{response.name}"


def _assistant(
    content: types.Content, pairs: _Pairs, recall: Recall, before: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    parts = content.parts or ()
    asked = [(pairs.asked(part.function_call), part.function_call) for part in parts if part.function_call is not None]
    if (said := recall(content, before)) is not None:
        return [said]
    calls = [
        {"id": tool_call_id, "type": "function", "function": {"name": call.name, "arguments": dumps(call.args or {})}}
        for tool_call_id, call in asked
    ]
    thoughts = "".join(part.text or "" for part in parts if part.thought)
    text = "\n".join(words for part in parts if not part.thought and (words := _text(part)))
    if not (calls or text or thoughts):
        return []
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if thoughts:
        message["reasoning"] = thoughts
    return [message | {"tool_calls": calls} if calls else message]


def _others(content: types.Content, pairs: _Pairs) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    texts = []
    for part in content.parts or ():
        if (response := part.function_response) is not None:
            if response.parts:
                raise ConfigError(_not_text(f"media in the answer of tool {response.name!r}"))
            told = {"role": "tool", "tool_call_id": pairs.answered(response), "content": told_text(response.response)}
            messages.append(told)
        elif not part.thought and (text := _text(part)):
            texts.append(text)
    if texts:
        messages.append({"role": "system" if content.role == "system" else "user", "content": "\n".join(texts)})
    return messages


def _text(part: types.Part) -> str:
    """Return a part as text, "" where it holds none.

    Raises:
        ConfigError: the part is media.
    """
    if part.text is not None:
        return part.text
    if (code := part.executable_code) is not None:
        return f"```{(code.language or 'python').lower()}\n{code.code}\n```"
    if (ran := part.code_execution_result) is not None:
        return f"```tool_output\n{ran.output}\n```"
    if (blob := part.inline_data) is not None:
        if (blob.mime_type or "").startswith("text/"):
            return (blob.data or b"").decode("utf-8", "replace")
        raise ConfigError(_not_text(f"data of type {blob.mime_type!r}"))
    if (file := part.file_data) is not None:
        raise ConfigError(_not_text(f"the file {file.file_uri!r}"))
    return ""


def _not_text(part: str) -> str:
    return f"the conversation holds {part}, and the policy reads text only; give the agent the content as text"


def told_text(response: Any) -> str:
    """Return what the model is told of a tool's answer."""
    return response if isinstance(response, str) else dumps({} if response is None else response)


def dumps(value: Any) -> str:
    """Return JSON as a model reads it, or plain text for what is not JSON (bytes, the author's own objects)."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)
