"""A recorded trajectory → a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from woodshed.traces.conversation import Conversation, Json, Trace, Turn, openai_message, openai_tool, strict_json
from woodshed.traces.threads import Answered, threads
from woodshed.types import ModelCall, Score, ToolCall, Trajectory


def of_trajectory(trajectory: Trajectory, *, score: Score | None = None, slot: str | None = None) -> Trace:
    """Return a rollout's conversations with all that is known of it.

    Tool results that no later call read are appended to the conversation that asked for them. `about` has the keys
    `rollout_id`, `scenario_id`, `slot`, `status`, `error`, `output`, `metrics`, `score` and `tool_calls`; those without
    a value are left out.
    """
    answered = [call for call in trajectory.calls if call.tokens.completions]
    conversations = threads(map(_answered, _in_order(answered)), prefix=trajectory.rollout_id)
    known = trajectory.model_dump(mode="json", exclude={"calls", "format", "tool_calls"})
    about = known | {
        "slot": slot,
        "score": None if score is None else score.model_dump(mode="json"),
        "tool_calls": [call.model_dump(mode="json") for call in trajectory.tool_calls],
    }
    return Trace(
        id=trajectory.rollout_id,
        conversations=tuple(_with_last_results(c, trajectory.tool_calls) for c in conversations),
        lost=tuple(call for call in trajectory.calls if not call.tokens.completions),
        about=strict_json({key: value for key, value in about.items() if value not in (None, [], {})}),
    )


def _in_order(calls: Sequence[ModelCall]) -> list[ModelCall]:
    return sorted(calls, key=lambda call: call.tokens.started_s)


def _answered(call: ModelCall) -> Answered:
    tokens, note = call.tokens, call.note
    return Answered(
        prompt=[openai_message(message) for message in tokens.messages],
        answers=[openai_message(c.message, c.reasoning) for c in tokens.completions],
        tools=tuple(openai_tool(tool) for tool in tokens.tools),
        agent=None if note is None else note.agent,
        parent_call_id=None if note is None else note.parent_call_id,
        call=call,
    )


def _with_last_results(conversation: Conversation, recorded: Sequence[ToolCall]) -> Conversation:
    asked: list[Json] = conversation.turns[-1].message.get("tool_calls") or [] if conversation.turns else []
    own = [call for call in recorded if None in (call.agent, conversation.agent) or call.agent == conversation.agent]
    results = {call.tool_call_id: call.result for call in own if call.result is not None}
    added = tuple(
        Turn(message={"role": "tool", "tool_call_id": request["id"], "content": results[request["id"]]})
        for request in asked
        if request["id"] in results
    )
    return replace(conversation, turns=conversation.turns + added)
