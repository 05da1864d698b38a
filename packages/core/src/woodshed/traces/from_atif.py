"""A trajectory of ATIF 1.0 to 1.8 → a trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from woodshed.traces.atif_models import Metrics, Step, Trajectory
from woodshed.traces.atif_steps import messages_of, own
from woodshed.traces.conversation import Conversation, Json, Trace, Turn
from woodshed.traces.notes import Notes
from woodshed.traces.openai_shape import Unreadable, shaped_tools
from woodshed.traces.recorded import known_about, recorded_message, recorded_tool, unpacked
from woodshed.types import Completion, ModelCall, TokenCall

_UNKNOWN_VERSION = -1


def from_atif(value: Json, place: str, notes: Notes) -> Trace | None:
    """Return the trace of one trajectory; None, with a note, where it cannot be read.

    Unknown fields are noted and left out. A trajectory of another origin gets calls wherever its steps have token ids.
    """
    trajectory = _validated(value, place, notes)
    if trajectory is None:
        return None
    for name in ("continued_trajectory_ref",):
        if getattr(trajectory, name):
            notes.ignore(place, [f"{name} ({getattr(trajectory, name)}: a file of its own)"])
    kept = own(trajectory)
    trace_id = str(kept.get("id") or trajectory.trajectory_id or trajectory.session_id or place)
    parts = [trajectory, *(trajectory.subagent_trajectories or ())]
    parts = [part for part in parts if part.steps]
    if not parts:
        notes.skip(place, "the trajectory has no steps")
        return None
    conversations = tuple(
        _conversation(part, f"{trace_id}/{number}", place, notes) for number, part in enumerate(parts)
    )
    lost = [unpacked(call) for call in _listed(kept.get("lost")) if isinstance(call, dict)]
    return Trace(
        id=trace_id,
        conversations=conversations,
        place=place,
        lost=tuple(call for call in lost if call is not None),
        about=known_about(kept.get("about")) or _about(trajectory),
    )


def _validated(value: Json, place: str, notes: Notes) -> Trajectory | None:
    value = copy.deepcopy(value)
    while True:
        try:
            return Trajectory.model_validate(value)
        except ValidationError as error:
            unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
            if not unknown:
                first = error.errors()[0]
                at = ".".join(map(str, first["loc"])) or "the trajectory"
                notes.skip(place, f"not a trajectory of ATIF: {at}: {first['msg']}")
                return None
            removed = [".".join(map(str, loc)) for loc in unknown if _removed(value, loc)]
            if not removed:
                notes.skip(place, f"not a trajectory of ATIF: {unknown[0]} is unknown")
                return None
            notes.ignore(place, removed)


def _removed(value: Any, location: Sequence[int | str]) -> bool:
    """Remove what an error names, and return whether it was there; names of union members are no part of the value."""
    for part in location[:-1]:
        if isinstance(value, list) and isinstance(part, int):
            value = value[part]
        elif isinstance(value, dict) and part in value:
            value = value[part]
    if isinstance(value, dict) and location[-1] in value:
        del value[location[-1]]
        return True
    return False


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _about(trajectory: Trajectory) -> Json:
    metrics = trajectory.final_metrics.extra if trajectory.final_metrics is not None else None
    return {"metrics": metrics} if metrics else {}


def _conversation(trajectory: Trajectory, id: str, place: str, notes: Notes) -> Conversation:
    tools = tuple(_tools(trajectory, place, notes))
    turns: list[Turn] = []
    for step in trajectory.steps:
        messages = messages_of(step)
        for number, message in enumerate(messages):
            is_answer = number == 0 and step.source == "agent"
            sampled = is_answer and not step.is_copied_context and step.llm_call_count != 0
            call = _call(step, message, turns, tools, id) if sampled else None
            place_of_answer = _said(call, step) if call is not None else 0
            turns.append(Turn(message=message, sampled=sampled, call=call, completion=place_of_answer))
    kept = own(trajectory)
    return Conversation(
        id=id,
        turns=tuple(turns),
        tools=tools,
        agent=_text(kept.get("agent")) if "agent" in kept else trajectory.agent.name,
        parent_call_id=_text(kept.get("parent_call_id")),
    )


def _tools(trajectory: Trajectory, place: str, notes: Notes) -> Iterator[Json]:
    for number, tool in enumerate(trajectory.agent.tool_definitions or ()):
        try:
            yield from shaped_tools([tool])
        except Unreadable:
            notes.ignore(place, [f"agent.tool_definitions.{number} (not in OpenAI's shape)"])


def _call(step: Step, answer: Json, turns: Sequence[Turn], tools: Sequence[Json], id: str) -> ModelCall | None:
    prompt, metrics = [turn.message for turn in turns], step.metrics or Metrics()
    kept = own(step).get("call")
    if isinstance(kept, dict) and (
        call := unpacked(_with_tokens(kept, metrics), prompt=prompt, tools=tools, answers=[answer])
    ):
        return call
    if not metrics.completion_token_ids or (step.llm_call_count or 1) > 1:
        return None
    ids = tuple(metrics.completion_token_ids)
    completion = Completion(
        index=0,
        message=recorded_message(answer),
        reasoning=answer.get("reasoning"),
        token_ids=ids,
        logprobs=tuple(metrics.logprobs or ()),
        weight_versions=(_UNKNOWN_VERSION,) * len(ids),
    )
    tokens = TokenCall(
        call_id=f"{id}/{step.step_id}",
        started_s=float(step.step_id),
        latency_s=0.0,
        messages=tuple(recorded_message(message) for message in prompt),
        tools=tuple(recorded_tool(tool) for tool in tools),
        prompt_ids=tuple(metrics.prompt_token_ids or ()),
        completions=(completion,),
    )
    return ModelCall(tokens=tokens)


def _with_tokens(kept: Json, metrics: Metrics) -> Json:
    """Return a kept call with the ids and log-probabilities of its step, unless it has its own."""
    completions = _completions(kept)
    if len(completions) != 1:
        return kept
    own_ids = {"token_ids": metrics.completion_token_ids or (), "logprobs": metrics.logprobs or ()}
    plane = (
        {"prompt_ids": metrics.prompt_token_ids or ()} | kept["tokens"] | {"completions": [own_ids | completions[0]]}
    )
    return kept | {"tokens": plane}


def _completions(kept: Any) -> list[Json]:
    plane = kept.get("tokens") if isinstance(kept, dict) else None
    found = _listed(plane.get("completions")) if isinstance(plane, dict) else []
    return found if all(isinstance(completion, dict) for completion in found) else []


def _said(call: ModelCall, step: Step) -> int:
    """Return which completion the step holds: the one that was kept without its message."""
    kept = _completions(own(step).get("call"))[: len(call.tokens.completions)]
    return next((k for k, completion in enumerate(kept) if "message" not in completion), 0)
