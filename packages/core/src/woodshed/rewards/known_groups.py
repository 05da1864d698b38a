"""Groups of attempts whose order is beyond doubt, to try a judge on before a run depends on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from woodshed.types import Completion, Message, ModelCall, TokenCall, ToolRequest, ToolSpec, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownGroup:
    """Attempts at one task, and how good each is."""

    name: str
    trajectories: tuple[Trajectory, ...]
    worth: dict[str, float]
    """Rollout id → its worth; a higher one is better, and only the order counts."""


def known_groups() -> tuple[KnownGroup, ...]:
    """Return woodshed's own groups: ten tasks of ten kinds, with four attempts each."""
    text = (resources.files("woodshed.rewards") / "known_groups.json").read_text(encoding="utf-8")
    return tuple(_group(**entry) for entry in json.loads(text)["groups"])


def attempt_of(rollout_id: str, scenario_id: str, messages: tuple[Message, ...], answer: Message) -> Trajectory:
    """Return a trajectory that was never sampled: one call with these messages and this answer."""
    completion = Completion(index=0, message=answer, token_ids=(), logprobs=(), weight_versions=())
    tools = tuple(
        ToolSpec(name=name, description="", parameters={"type": "object", "properties": {}})
        for name in dict.fromkeys(t.name for m in (*messages, answer) for t in m.tool_requests)
    )
    call = TokenCall(
        call_id=f"{rollout_id}-call", started_s=0.0, latency_s=0.0, messages=messages, tools=tools,
        completions=(completion,),
    )  # fmt: skip
    return Trajectory(rollout_id=rollout_id, scenario_id=scenario_id, calls=(ModelCall(tokens=call),))


def _group(*, id: str, task: str, attempts: list[Any]) -> KnownGroup:
    question = Message(role="user", content=task)
    trajectories = []
    for number, attempt in enumerate(attempts):
        steps = [_message(step, n) for n, step in enumerate(attempt)] if isinstance(attempt, list) else [_said(attempt)]
        trajectories.append(attempt_of(f"{id}/{number}", id, (question, *steps[:-1]), steps[-1]))
    worth = {t.rollout_id: float(-number) for number, t in enumerate(trajectories)}
    return KnownGroup(name=id, trajectories=tuple(trajectories), worth=worth)


def _message(step: str | dict[str, Any], number: int) -> Message:
    if isinstance(step, str):
        return _said(step)
    if "result" in step:
        return Message(role="tool", content=step["result"], tool_call_id=f"c{number - 1}")
    request = ToolRequest(id=f"c{number}", name=step["call"], arguments=json.dumps(step["arguments"]))
    return Message(role="assistant", tool_requests=(request,))


def _said(text: str) -> Message:
    return Message(role="assistant", content=text)
