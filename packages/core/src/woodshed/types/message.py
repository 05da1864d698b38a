"""A conversation as the model reads it: messages, tool requests and tool definitions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from woodshed.types.record import Record

Role = Literal["system", "user", "assistant", "tool"]


class ToolRequest(Record):
    """One tool call as the model wrote it."""

    id: str
    name: str
    arguments: str
    """Raw argument text; not necessarily valid JSON."""


class Message(Record):
    """One message of a chat completion request or its answer."""

    role: Role
    content: str | None = None
    tool_requests: tuple[ToolRequest, ...] = ()
    tool_call_id: str | None = None
    """On a `tool` message: the request it answers."""
    name: str | None = None


class ToolSpec(Record):
    """One tool that the model was offered."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """JSON Schema of the arguments."""
