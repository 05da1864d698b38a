"""Small builders of recorded values, shared by core's tests."""

from __future__ import annotations

from collections.abc import Sequence

from woodshed.types import (
    CallMetadata,
    Completion,
    Failure,
    Group,
    Judgement,
    Message,
    ModelCall,
    Score,
    TokenCall,
    ToolRequest,
    ToolSpec,
    Trajectory,
)

TOOLS = (ToolSpec(name="look", description="Look it up.", parameters={"type": "object", "properties": {"item": {}}}),)


def said(text: str) -> Message:
    """An assistant's plain answer."""
    return Message(role="assistant", content=text)


def asked(name: str, arguments: str = "{}", id: str = "c1") -> Message:
    """An assistant's tool call."""
    return Message(role="assistant", tool_requests=(ToolRequest(id=id, name=name, arguments=arguments),))


def call(
    answer: Message,
    *,
    call_id: str = "call-1",
    messages: Sequence[Message] = (Message(role="user", content="How many lamps?"),),
    tools: tuple[ToolSpec, ...] = (),
    token_ids: tuple[int, ...] = (7, 8),
    prompt_ids: tuple[int, ...] = (1, 2, 3),
    finish_reason: str = "stop",
    superseded: bool = False,
) -> ModelCall:
    """One answered model call."""
    completion = Completion(
        index=0,
        message=answer,
        token_ids=token_ids,
        logprobs=(-0.5,) * len(token_ids),
        weight_versions=(0,) * len(token_ids),
        finish_reason=finish_reason,
    )
    tokens = TokenCall(
        call_id=call_id, started_s=0.0, latency_s=0.1, messages=tuple(messages), tools=tools, prompt_ids=prompt_ids,
        completions=(completion,), sampling={"temperature": 1.0},
    )  # fmt: skip
    return ModelCall(tokens=tokens, note=CallMetadata(call_id=call_id, superseded=superseded))


def trajectory(rollout_id: str, *calls: ModelCall, failed: Failure | None = None) -> Trajectory:
    """One rollout."""
    return Trajectory(
        rollout_id=rollout_id, scenario_id="s", calls=calls, error=failed, status="failed" if failed else "completed"
    )


def group(*members: tuple[Trajectory, float | None], error: Failure | None = None, group_id: str = "0/s") -> Group:
    """A judged group; a score of None leaves the member out of the verdict."""
    scores = tuple(Score(rollout_id=t.rollout_id, value=v) for t, v in members if v is not None)
    return Group(
        group_id=group_id, scenario_id="s", trajectories=tuple(t for t, _ in members),
        judgement=Judgement(scores=() if error else scores, judge="j", error=error),
    )  # fmt: skip
