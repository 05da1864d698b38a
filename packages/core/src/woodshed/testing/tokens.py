"""Fake but consistent token ids: a token is a byte, and a conversation's tokens extend those of its beginning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from woodshed.types import Message, Role, ToolRequest, ToolSpec

END = 256
"""Closes every turn, like a chat template's end-of-message token."""


def prompt_ids(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[int, ...]:
    """Return the ids of a prompt, up to and with the header of the turn the model is to write."""
    head = "".join(f"{tool.name};" for tool in tools)
    turns = [token for message in messages for token in (*_bytes(f"<{message.role}>"), *turn_ids(message))]
    return (*_bytes(head), *turns, *_bytes("<assistant>"))


def turn_ids(message: Message) -> tuple[int, ...]:
    """Return the ids of one turn's body, closed by `END`; tool arguments count by value, not by spacing."""
    calls = "".join(f"\n{call.name}({_canonical(call.arguments)})" for call in message.tool_requests)
    return (*_bytes((message.content or "") + calls), END)


def to_message(wire: dict[str, Any]) -> Message:
    """Return a message of a request body as our type; text parts are joined."""
    content = wire.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    role: Role = "system" if wire["role"] == "developer" else wire["role"]
    return Message(
        role=role,
        content=content,
        tool_requests=tuple(
            ToolRequest(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
            for call in wire.get("tool_calls") or ()
        ),
        tool_call_id=wire.get("tool_call_id"),
        name=wire.get("name"),
    )


def to_tool(wire: dict[str, Any]) -> ToolSpec:
    """Return a tool definition of a request body as our type."""
    function = wire["function"]
    return ToolSpec(
        name=function["name"],
        description=function.get("description") or "",
        parameters=function.get("parameters") or {},
    )


def _bytes(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except ValueError:
        return arguments
