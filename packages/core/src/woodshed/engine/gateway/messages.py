"""Messages and tools in OpenAI's shape ↔ woodshed's own. Pure; requests are checked before (`chat_request`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from woodshed.types import Message, ToolRequest, ToolSpec


def to_messages(messages: list[dict[str, Any]]) -> list[Message]:
    """Return the messages of a checked request as woodshed's own."""
    return [to_message(message) for message in messages]


def to_message(message: Mapping[str, Any]) -> Message:
    """Return one message of a request or an answer as woodshed's own; text parts are joined by newlines."""
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    return Message(
        role=message["role"],
        content=content,
        tool_requests=tuple([_to_request(call) for call in calls]) if calls else (),
        tool_call_id=message.get("tool_call_id"),
        name=message.get("name"),
    )


def _to_request(call: Mapping[str, Any]) -> ToolRequest:
    function = call["function"]
    return ToolRequest(id=call.get("id") or "", name=function["name"], arguments=function["arguments"])


def from_message(message: Message, reasoning: str | None = None) -> dict[str, Any]:
    """Return one message in OpenAI's shape; `reasoning` is what vLLM's reasoning parser separated from the answer."""
    message_json: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_requests:
        message_json["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_requests
        ]
    optional = {"tool_call_id": message.tool_call_id, "name": message.name, "reasoning": reasoning}
    return message_json | {key: value for key, value in optional.items() if value is not None}


def to_tools(tools: list[dict[str, Any]] | None) -> list[ToolSpec]:
    """Return a request's tools as woodshed's own."""
    return [
        ToolSpec(
            name=tool["function"]["name"],
            description=tool["function"].get("description") or "",
            parameters=tool["function"].get("parameters") or {},
        )
        for tool in tools or ()
    ]
