"""A recorded call without what its conversation says already ↔ the call: what formats keep beside the messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from woodshed.traces.conversation import Json, strict_json, text_of
from woodshed.types import Message, ModelCall, Score, ToolRequest, ToolSpec

OWN = "woodshed"
"""Key under which a format's free fields hold what only woodshed records."""


def packed(call: ModelCall, *, said: int | None = None, tokens: bool = True) -> Json:
    """Return a call without its messages and tools, and without the answer of the completion `said`.

    Args:
        call: The call.
        said: Which completion the conversation holds; None for a call whose answers are kept here.
        tokens: Whether token ids and log-probabilities are kept; those that JSON has no number for are kept anyway.
    """
    kept = call.model_dump(mode="json", exclude_defaults=True, exclude={"tokens": {"messages", "tools"}})
    for number, completion in enumerate(kept["tokens"].get("completions", ())):
        for name in ("message", "reasoning") if number == said else ():
            completion.pop(name, None)
        if not tokens:
            completion.pop("token_ids", None)
            if is_finite(call.tokens.completions[number].logprobs):
                completion.pop("logprobs", None)
    if not tokens:
        kept["tokens"].pop("prompt_ids", None)
    return dict(strict_json(kept))


def is_finite(logprobs: Sequence[float]) -> bool:
    """Whether JSON has a number for each of them."""
    return all(map(math.isfinite, logprobs))


def unpacked(
    kept: Mapping[str, Any], *, prompt: Sequence[Json] = (), tools: Sequence[Json] = (), answers: Sequence[Json] = ()
) -> ModelCall | None:
    """Return the call that `packed` made, with its messages put back; None where it is not of that shape.

    Args:
        kept: What was kept.
        prompt: The messages before the answer.
        tools: What was offered.
        answers: One message for each completion that has none of its own, in order.
    """
    said = iter(answers)
    try:
        plane = dict(kept["tokens"])
        completions = []
        for completion in plane.get("completions", ()):
            answer = {} if "message" in completion else _answer(next(said))
            completions.append({"token_ids": (), "logprobs": (), "weight_versions": ()} | answer | completion)
        plane |= {"messages": [recorded_message(m) for m in prompt], "tools": [recorded_tool(t) for t in tools]}
        return ModelCall.model_validate({**kept, "tokens": plane | {"completions": completions}})
    except (ValidationError, KeyError, TypeError, AttributeError, StopIteration):
        return None


def _answer(message: Json) -> Json:
    return {"message": recorded_message(message), "reasoning": message.get("reasoning")}


def known_about(value: Any) -> Json:
    """Return what a trace tells of its rollout, without what is not of the shape that `of_trajectory` writes."""
    about = dict(value) if isinstance(value, dict) else {}
    kinds = {"status": str, "rollout_id": str, "scenario_id": str, "slot": str, "metrics": dict, "tool_calls": list}
    kept = {key: item for key, item in about.items() if isinstance(item, kinds.get(key, object)) and key != "score"}
    try:
        return kept | {"score": Score.model_validate(about["score"]).model_dump(mode="json")}
    except (ValidationError, KeyError):
        return kept


def recorded_message(message: Mapping[str, Any]) -> Message:
    """Return a message in OpenAI's shape as woodshed's own; only the text of several parts is kept."""
    content = message.get("content")
    return Message(
        role="system" if message["role"] == "developer" else message["role"],
        content=text_of(message) if isinstance(content, list) else content,
        tool_requests=tuple(
            ToolRequest(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        ),
        tool_call_id=message.get("tool_call_id"),
        name=message.get("name"),
    )


def recorded_tool(tool: Mapping[str, Any]) -> ToolSpec:
    """Return a tool in OpenAI's shape as woodshed's own."""
    function = tool["function"]
    return ToolSpec(
        name=function["name"],
        description=function.get("description") or "",
        parameters=function.get("parameters") or {},
    )
