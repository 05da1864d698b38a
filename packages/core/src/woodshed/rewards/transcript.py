"""Trajectory → text for a judge: its conversations, one block of lines per message."""

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
    """Pairs of a sampled message's index and the id of the call that sampled it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One message as the judge reads it."""

    role: str
    text: str
    is_error: bool = False
    """Whether it reports a failed tool call."""


_ERROR = re.compile(r"\b(error|exception|traceback|failed|failure|denied|not found|timed? ?out)\b", re.IGNORECASE)
_ERROR_CHARS = 200
"""Leading characters of a tool's result that are searched for an error."""


def histories(trajectory: Trajectory) -> tuple[History, ...]:
    """Return the trajectory's conversations, each once and at full length, in the order of their first call.

    A call whose messages extend an earlier conversation replaces it. Superseded calls, whose answer the framework did
    not use, are left out.
    """
    conversations: list[History] = []
    for call in trajectory.calls:
        if not call.tokens.completions or call.superseded:
            continue
        prompt = call.tokens.messages
        full = History(
            agent=call.note.agent if call.note else None,
            messages=(*prompt, call.tokens.completions[0].message),
            tools=call.tokens.tools,
            calls=((len(prompt), call.tokens.call_id),),
        )
        for index, older in enumerate(conversations):
            if _extends(prompt, older.messages):
                conversations[index] = replace(full, calls=older.calls + full.calls)
                break
        else:
            conversations.append(full)
    return tuple(conversations)


def _extends(longer: Sequence[Message], shorter: Sequence[Message]) -> bool:
    return len(longer) >= len(shorter) and all(same_message(a, b) for a, b in zip(shorter, longer, strict=False))


def render_messages(messages: Sequence[Message], *, known: Sequence[Message] = ()) -> str:
    """Return the messages as text, one line per message part; `known` are earlier messages that name the tool calls.

    Further lines of a part are indented, so that no text can pose as another message: an assistant that writes a line
    `tool search: found` has not called a tool.
    """
    return "\n".join(block.text for block in message_blocks(messages, known=known))


def message_blocks(
    messages: Sequence[Message],
    *,
    known: Sequence[Message] = (),
    failed: Collection[str] = (),
    steps: Mapping[int, int] | None = None,
) -> list[Block]:
    """Return one block per message; see `render_messages`.

    Args:
        messages: the messages to render.
        known: earlier messages that name the tool calls.
        failed: ids of tool calls whose tool raised. Other failures are recognised by words such as "error".
        steps: index of a message → number of its step, written above it.
    """
    # By turn: some models number their tool calls anew in each (`functions.w:0`).
    names = {t.id: t.name for m in known for t in m.tool_requests}
    step_numbers = steps or {}
    blocks = []
    for index, message in enumerate(messages):
        names.update({t.id: t.name for t in message.tool_requests})
        lines = [_indented(line) for line in _lines(message, names)]
        if index in step_numbers:
            lines.insert(0, f"step {step_numbers[index]}:")
        is_error = message.role == "tool" and (
            message.tool_call_id in failed or _ERROR.search((message.content or "")[:_ERROR_CHARS]) is not None
        )
        blocks.append(Block(role=message.role, text="\n".join(lines), is_error=is_error))
    return blocks


def _indented(part: str) -> str:
    return "\n  ".join(sendable(part).splitlines())


def sendable(text: str) -> str:
    """Return text that can be encoded as UTF-8: lone surrogates, which JSON allows, are replaced."""
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
    """Return the number of leading messages that all conversations share."""
    shared = 0
    for column in zip(*conversations, strict=False):
        if any(not same_message(column[0], other) for other in column[1:]):
            break
        shared += 1
    return shared
