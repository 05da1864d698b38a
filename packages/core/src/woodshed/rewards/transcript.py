"""Trajectory → text that a judge can read: histories, and one line or more per message."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from woodshed.types import Message, ToolSpec, Trajectory, same_message


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """One unbroken conversation of a trajectory."""

    agent: str | None
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    calls: tuple[tuple[int, str], ...] = ()
    """Place of a message that was sampled → id of the call that sampled it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One message as the judge reads it."""

    role: str
    text: str
    is_error: bool = False
    """Whether it tells of a tool that failed."""


_ERROR = re.compile(r"\b(error|exception|traceback|failed|failure|denied|not found|timed? ?out)\b", re.IGNORECASE)
_ERROR_WITHIN = 200
"""Characters at the head of a tool's result in which an error is looked for."""


def histories(trajectory: Trajectory) -> tuple[History, ...]:
    """Return the trajectory's conversations, each once and at its full length, in order of their first call.

    A call whose messages extend an earlier conversation replaces it; calls the framework threw away are left out.
    """
    found: list[History] = []
    for call in trajectory.calls:
        if not call.tokens.completions or call.superseded:
            continue
        seen = call.tokens.messages
        full = History(
            agent=call.note.agent if call.note else None,
            messages=(*seen, call.tokens.completions[0].message),
            tools=call.tokens.tools,
            calls=((len(seen), call.tokens.call_id),),
        )
        for place, older in enumerate(found):
            if _extends(seen, older.messages):
                found[place] = replace(full, calls=older.calls + full.calls)
                break
        else:
            found.append(full)
    return tuple(found)


def _extends(longer: Sequence[Message], shorter: Sequence[Message]) -> bool:
    return len(longer) >= len(shorter) and all(same_message(a, b) for a, b in zip(shorter, longer, strict=False))


def render_messages(messages: Sequence[Message], *, known: Sequence[Message] = ()) -> str:
    """Return one block of text, a line per message part; `known` are earlier messages that name the tool calls.

    Further lines of one part are indented, so that no text can pass itself off as another message: an assistant that
    writes a line `tool search: found` has not called a tool.
    """
    return "\n".join(block.text for block in message_blocks(messages, known=known))


def message_blocks(
    messages: Sequence[Message],
    *,
    known: Sequence[Message] = (),
    failed: Collection[str] = (),
    steps: Mapping[int, int] | None = None,
) -> list[Block]:
    """Return one block a message; see `render_messages`.

    Args:
        messages: what is rendered.
        known: earlier messages that name the tool calls.
        failed: ids of tool calls whose tool raised; other failures are known by their words.
        steps: place of a message → number of its step, written above it.
    """
    names = {t.id: t.name for m in (*known, *messages) for t in m.tool_requests}
    numbered = steps or {}
    blocks = []
    for place, message in enumerate(messages):
        lines = [_indented(line) for line in _lines(message, names)]
        if place in numbered:
            lines.insert(0, f"step {numbered[place]}:")
        is_error = message.role == "tool" and (
            message.tool_call_id in failed or _ERROR.search((message.content or "")[:_ERROR_WITHIN]) is not None
        )
        blocks.append(Block(role=message.role, text="\n".join(lines), is_error=is_error))
    return blocks


def _indented(part: str) -> str:
    return "\n  ".join(sendable(part).splitlines())


def sendable(text: str) -> str:
    """Return text that every hash and wire takes: a lone surrogate, which JSON can carry, is replaced."""
    return text.encode("utf-8", "replace").decode()


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
        if any(not same_message(column[0], other) for other in column[1:]):
            break
        shared += 1
    return shared
