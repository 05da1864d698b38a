"""Conversations as lines of OpenAI messages ↔ traces; `woodshed sft` reads the same lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from woodshed.traces.conversation import Conversation, Json, Trace, Turn, media_of
from woodshed.traces.notes import Notes
from woodshed.traces.openai_shape import Unreadable, shaped_messages, shaped_tools
from woodshed.traces.recorded import OWN

_KNOWN = {"messages", "tools", "functions", "parallel_tool_calls", OWN}


def talks(trace: Trace) -> Iterator[Json]:
    """Yield one line for each conversation of text in which something can be learned.

    A line is `{"messages": […], "tools": […], "woodshed": {…}}`. An assistant message that was not sampled there, or
    was cut off, has `"weight": 0`, as in OpenAI's fine-tuning format: it is context, and no loss is taken on it.
    """
    for conversation in trace.conversations:
        if not _can_be_learned(conversation) or media_of(conversation.messages):
            continue
        about = {"id": trace.id, "agent": conversation.agent} | {
            key: trace.about[key] for key in ("scenario_id", "slot", "metrics") if key in trace.about
        }
        if score := trace.about.get("score"):
            about["score"] = score["value"]
        line: Json = {"messages": [_weighted(turn) for turn in conversation.turns]}
        if conversation.tools:
            line["tools"] = list(conversation.tools)
        yield line | {OWN: {key: value for key, value in about.items() if value is not None}}


def _weighted(turn: Turn) -> Json:
    is_context = turn.message["role"] == "assistant" and not turn.learnable
    return turn.message | {"weight": 0} if is_context else turn.message


def why_no_talk(trace: Trace) -> str | None:
    """Return why nothing of a trace can be learned by `woodshed sft`; None where something can."""
    if not trace.is_whole:
        return f"the run's status is {trace.about['status']!r}, so its answers are no examples"
    learnable = [c for c in trace.conversations if _can_be_learned(c)]
    if not learnable:
        return "no whole answer of a model is in it"
    if media := sorted({kind for c in learnable for kind in media_of(c.messages)}):
        return f"a conversation holds {', '.join(media)}, and `woodshed sft` trains on text"
    return None


def _can_be_learned(conversation: Conversation) -> bool:
    return any(turn.learnable for turn in conversation.turns)


def from_messages(value: Any, place: str, notes: Notes) -> Trace | None:
    """Return the trace of one line, or of one list of messages; None, with a note, where it cannot be read."""
    line = value if isinstance(value, dict) else {"messages": value}
    try:
        messages, unknown = shaped_messages(line.get("messages"))
        tools = shaped_tools(line.get("tools") or line.get("functions"))
    except Unreadable as error:
        notes.skip(place, str(error))
        return None
    notes.ignore(place, [*dict.fromkeys(unknown), *(key for key in line if key not in _KNOWN)])
    kept: Json = line[OWN] if isinstance(line.get(OWN), dict) else {}
    turns = tuple(_turn(message) for message in messages)
    id = str(kept.get("id") or place)
    conversation = Conversation(id=f"{id}/0", turns=turns, tools=tuple(tools), agent=kept.get("agent"))
    about: Json = {key: kept[key] for key in ("scenario_id", "slot", "metrics") if key in kept}
    if isinstance(kept.get("score"), int | float):
        about["score"] = {"rollout_id": id, "value": kept["score"]}
    return Trace(id=id, conversations=(conversation,), place=place, about=about)


def _turn(message: Json) -> Turn:
    sampled = message["role"] == "assistant" and message.get("weight") != 0
    return Turn(message={key: value for key, value in message.items() if key != "weight"}, sampled=sampled)
