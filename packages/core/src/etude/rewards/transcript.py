"""Trajectory → text that a judge can read: histories, and one line or more per message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etude.types import Message, ToolRequest, ToolSpec, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """One unbroken conversation of a trajectory."""

    agent: str | None
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]


def histories(trajectory: Trajectory) -> tuple[History, ...]:
    """Return the trajectory's conversations, each once and at its full length, in order of their first call.

    A call whose messages extend an earlier conversation replaces it; calls the framework threw away are left out.
    """
    found: list[History] = []
    for call in trajectory.calls:
        if not call.tokens.completions or (call.note is not None and call.note.superseded):
            continue
        seen = call.tokens.messages
        full = History(
            agent=call.note.agent if call.note else None,
            messages=(*seen, call.tokens.completions[0].message),
            tools=call.tokens.tools,
        )
        for place, older in enumerate(found):
            if _extends(seen, older.messages):
                found[place] = full
                break
        else:
            found.append(full)
    return tuple(found)


def _extends(longer: Sequence[Message], shorter: Sequence[Message]) -> bool:
    return len(longer) >= len(shorter) and all(_same(a, b) for a, b in zip(shorter, longer, strict=False))


def _same(sent: Message, kept: Message) -> bool:
    """Whether two messages say the same; frameworks re-send `""` for None and re-space arguments."""
    return (
        sent.role == kept.role
        and (sent.content or "").strip() == (kept.content or "").strip()
        and [_identity(t) for t in sent.tool_requests] == [_identity(t) for t in kept.tool_requests]
        and sent.tool_call_id == kept.tool_call_id
    )


def _identity(request: ToolRequest) -> tuple[str, str, Any]:
    """Return what makes a tool request itself; its arguments are compared as JSON, or as text where they are none."""
    try:
        return request.id, request.name, json.dumps(json.loads(request.arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return request.id, request.name, request.arguments.strip()


def render_messages(messages: Sequence[Message], *, known: Sequence[Message] = ()) -> str:
    """Return one block of text, a line per message part; `known` are earlier messages that name the tool calls.

    Further lines of one part are indented, so that no text can pass itself off as another message: an assistant that
    writes a line `tool search: found` has not called a tool.
    """
    names = {t.id: t.name for m in (*known, *messages) for t in m.tool_requests}
    return "\n".join(_indented(line) for message in messages for line in _lines(message, names))


def _indented(part: str) -> str:
    # A lone surrogate, which JSON can carry, would be refused by every hash and wire later on.
    return "\n  ".join(part.encode("utf-8", "replace").decode().splitlines())


def _lines(message: Message, names: dict[str, str]) -> list[str]:
    content = (message.content or "").strip()
    if message.role == "tool":
        return [f"tool {names.get(message.tool_call_id or '', message.name or '?')}: {content}"]
    lines = [f"{message.role}: {content}"] if content or not message.tool_requests else []
    return lines + [f"{message.role} calls {t.name}({t.arguments})" for t in message.tool_requests]


def render_tools(tools: Sequence[ToolSpec]) -> str:
    """Return one line per tool: `name(argument, argument): description`."""
    return "\n".join(
        f"tool {t.name}({', '.join(t.parameters.get('properties', {}))}): {' '.join(t.description.split())}"
        for t in tools
    )


def common_prefix(conversations: Sequence[Sequence[Message]]) -> int:
    """Return how many leading messages all conversations share."""
    shared = 0
    for column in zip(*conversations, strict=False):
        if any(not _same(column[0], other) for other in column[1:]):
            break
        shared += 1
    return shared
