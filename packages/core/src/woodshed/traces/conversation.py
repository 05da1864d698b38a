"""What every trace format is read into and written from: conversations in OpenAI's shape, with the recorded calls."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from woodshed.types import Message, ModelCall, ToolSpec

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message of a conversation."""

    message: Json
    """In the shape of OpenAI's chat completions."""
    sampled: bool = False
    """True on an assistant message that a model answered in this trace; everything else is context."""
    call: ModelCall | None = None
    """The recorded call that answered with the message; None where the format has no tokens."""
    completion: int = 0
    """Which of the call's completions it is."""

    @property
    def learnable(self) -> bool:
        """Whether the message is a whole answer that was used: neither cut off, nor thrown away, nor context."""
        if self.call is None:
            return self.sampled
        if not self.sampled or self.call.superseded or self.call.tokens.error is not None:
            return False
        return self.call.tokens.completions[self.completion].finish_reason != "length"


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """One unbroken history: every answer was given to all messages before it."""

    id: str
    turns: tuple[Turn, ...]
    tools: tuple[Json, ...] = ()
    """What the model was offered, in OpenAI's shape."""
    agent: str | None = None
    parent_call_id: str | None = None
    """The model call, in another conversation, whose tool request started this one."""

    @property
    def messages(self) -> tuple[Json, ...]:
        """All messages, without what is known beside them."""
        return tuple(turn.message for turn in self.turns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One run of an agent: its conversations, the first one first."""

    id: str
    conversations: tuple[Conversation, ...]
    place: str = ""
    """Where it was read, such as `line 3`; for messages to a person."""
    lost: tuple[ModelCall, ...] = ()
    """Calls without an answer."""
    about: Json = field(default_factory=dict)
    """What is known of the rollout as a whole, as plain JSON: see `of_trajectory`."""

    @property
    def calls(self) -> tuple[ModelCall, ...]:
        """Every recorded call once, in order of start: what `tokens.build_rows` makes training rows of."""
        found = {turn.call.tokens.call_id: turn.call for turn in self._turns() if turn.call is not None}
        return tuple(sorted((*found.values(), *self.lost), key=lambda call: call.tokens.started_s))

    @property
    def is_whole(self) -> bool:
        """Whether the run ended as its author meant it to; unknown counts as yes."""
        return bool(self.about.get("status", "completed") == "completed")

    def _turns(self) -> Iterator[Turn]:
        for conversation in self.conversations:
            yield from conversation.turns


def openai_message(message: Message, reasoning: str | None = None) -> Json:
    """Return a recorded message in OpenAI's shape."""
    shaped: Json = {"role": message.role, "content": message.content}
    if message.tool_requests:
        shaped["tool_calls"] = [
            {"id": r.id, "type": "function", "function": {"name": r.name, "arguments": r.arguments}}
            for r in message.tool_requests
        ]
    optional = {"tool_call_id": message.tool_call_id, "name": message.name, "reasoning": reasoning}
    return shaped | {key: value for key, value in optional.items() if value is not None}


def openai_tool(tool: ToolSpec) -> Json:
    """Return an offered tool in OpenAI's shape."""
    function = {"name": tool.name, "description": tool.description, "parameters": strict_json(tool.parameters)}
    return {"type": "function", "function": function}


def strict_json(value: Any) -> Any:
    """Return plain JSON as every parser reads it: a number that is not finite becomes text, such as `"nan"`."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: strict_json(item) for key, item in value.items()}
    return [strict_json(item) for item in value] if isinstance(value, list | tuple) else value


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message; that of several parts is joined by newlines."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if part.get("type") == "text")
    return content or ""


def media_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the kinds of content that are not text, such as `image_url`."""
    parts = [part for m in messages if isinstance(m.get("content"), list) for part in m["content"]]
    return sorted({str(part.get("type")) for part in parts} - {"text"})


def identity(message: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what identifies a message; clients re-send None as `""`, other spacing of arguments, and no reasoning."""
    content = message.get("content")
    text = json.dumps(content, sort_keys=True) if media_of([message]) else text_of(message).strip()
    requests = tuple(_request_identity(call) for call in message.get("tool_calls") or ())
    return message["role"], text, requests, message.get("tool_call_id")


def _request_identity(call: Mapping[str, Any]) -> tuple[str, str, str]:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    try:
        return call["id"], name, json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return call["id"], name, arguments.strip()
