"""A trajectory's conversations as plain JSON: every message once, tool results with what the tool itself reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from woodshed.rewards.transcript import History, histories
from woodshed.types import Message, ModelCall, ToolCall, Trajectory

Json = dict[str, Any]


def conversations(trajectory: Trajectory, *, limit: int | None = None) -> list[Json]:
    """Return the trajectory's conversations.

    Args:
        trajectory: The rollout.
        limit: Most characters of one text; a longer one is cut, and its whole length is given as `whole`.
    """
    calls = {call.tokens.call_id: call for call in trajectory.calls}
    tools = {tool.tool_call_id: tool for tool in trajectory.tool_calls if tool.tool_call_id is not None}
    return [_conversation(history, calls, tools, limit) for history in histories(trajectory)]


def _conversation(
    history: History, calls: Mapping[str, ModelCall], tools: Mapping[str, ToolCall], limit: int | None
) -> Json:
    sampled = dict(history.calls)
    names: dict[str, str] = {}
    messages = []
    for index, message in enumerate(history.messages):
        names |= {request.id: request.name for request in message.tool_requests}
        shown = _message(message, names, tools, limit)
        if index in sampled:
            call = calls[sampled[index]]
            shown |= {"call": call.tokens.call_id, "reasoning": call.tokens.completions[0].reasoning}
        messages.append(shown)
    return {"agent": history.agent, "messages": messages, "tools": [t.model_dump(mode="json") for t in history.tools]}


def _message(message: Message, names: Mapping[str, str], tools: Mapping[str, ToolCall], limit: int | None) -> Json:
    shown: Json = {"role": message.role, **_cut("content", message.content, limit)}
    if message.tool_requests:
        shown["requests"] = [
            {"id": r.id, "name": r.name, **_cut("arguments", r.arguments, limit)} for r in message.tool_requests
        ]
    if message.role == "tool":
        shown["tool"] = names.get(message.tool_call_id or "", message.name or "?")
        if (run := tools.get(message.tool_call_id or "")) is not None:
            shown |= {"latency_s": run.latency_s, "error": None if run.error is None else str(run.error)}
    return shown


def _cut(name: str, text: str | None, limit: int | None) -> Json:
    if text is None or limit is None or len(text) <= limit:
        return {name: text}
    return {name: text[:limit], "whole": len(text)}


def unread_tools(trajectory: Trajectory) -> list[Json]:
    """Return the tool calls that no message of a conversation answers: their result was never read by the model."""
    read = {m.tool_call_id for history in histories(trajectory) for m in history.messages if m.role == "tool"}
    return [
        {
            "name": tool.name,
            "arguments": tool.arguments,
            "result": tool.result,
            "error": None if tool.error is None else str(tool.error),
            "latency_s": tool.latency_s,
            "agent": tool.agent,
        }
        for tool in trajectory.tool_calls
        if tool.tool_call_id is None or tool.tool_call_id not in read
    ]


def shared_messages(attempts: Sequence[Sequence[Json]]) -> int:
    """Return how many leading messages of their first conversations all share; at least one is left to each."""
    firsts = [found[0]["messages"] for found in attempts if found]
    shared = 0
    for column in zip(*firsts, strict=False):
        if any(essence(other) != essence(column[0]) for other in column[1:]):
            break
        shared += 1
    return min(shared, min((len(messages) - 1 for messages in firsts), default=0))


def essence(message: Json) -> tuple[Any, ...]:
    """Return what a message says, without ids and latencies, to compare it with others."""
    requests = tuple((r["name"], r["arguments"]) for r in message.get("requests", ()))
    return (message["role"], message.get("content") or "", message.get("whole"), requests)
