"""A trace → one trajectory of ATIF 1.8: the first conversation, and every other one as an embedded sub-agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from woodshed.traces.atif_models import (
    VERSION,
    Agent,
    FinalMetrics,
    Metrics,
    Observation,
    ObservationResult,
    Step,
    SubagentTrajectoryRef,
    Trajectory,
)
from woodshed.traces.atif_steps import step_of
from woodshed.traces.conversation import Conversation, Json, Trace, Turn
from woodshed.traces.recorded import OWN, is_finite, packed
from woodshed.types import ModelCall

_LATEST_S = datetime.max.replace(tzinfo=UTC).timestamp()


def to_atif(trace: Trace, *, agent: str, version: str, model: str | None = None) -> Trajectory:
    """Return a trace in ATIF.

    Every answer's step has the exact token ids of prompt and answer, and the sampling log-probabilities. What ATIF has
    no field for is kept under `extra.woodshed`: weight versions, sampling parameters, thrown-away completions, the
    rollout's status and score. The score is `final_metrics.extra.reward`, too.

    Args:
        trace: At least one conversation.
        agent: Name of the agent, where the conversations name none.
        version: Version of the agent system.
        model: The policy's model.
    """
    first, *others = trace.conversations
    steps = {conversation.id: list(_steps(conversation)) for conversation in trace.conversations}
    for conversation in others:
        _refer(conversation, trace.conversations, steps)

    def shaped(conversation: Conversation) -> Json:
        return {
            "schema_version": VERSION,
            "session_id": trace.id,
            "trajectory_id": conversation.id,
            "agent": Agent(
                name=conversation.agent or agent,
                version=version,
                model_name=model,
                tool_definitions=[dict(tool) for tool in conversation.tools] or None,
            ),
            "steps": steps[conversation.id],
        }

    embedded = [
        Trajectory(**shaped(c), extra={OWN: {"agent": c.agent, "parent_call_id": c.parent_call_id}}) for c in others
    ]
    about = {"id": trace.id, "agent": first.agent, "parent_call_id": first.parent_call_id, "about": trace.about}
    lost = [packed(call) for call in trace.lost]
    return Trajectory(
        **shaped(first),
        final_metrics=_final_metrics(trace, len(steps[first.id])),
        extra={OWN: about | ({"lost": lost} if lost else {})},
        subagent_trajectories=embedded or None,
    )


def _steps(conversation: Conversation) -> Iterator[Step]:
    for number, turns in enumerate(_grouped(conversation.turns), start=1):
        turn, fields = turns[0], dict[str, object]()
        if turn.call is not None:
            fields = {
                "metrics": _metrics(turn),
                "timestamp": _timestamp(turn.call.tokens.started_s),
                "extra": {
                    "call": packed(turn.call, said=turn.completion, tokens=len(turn.call.tokens.completions) > 1)
                },
            }
        if turn.message["role"] == "assistant" and not turn.sampled:
            fields["is_copied_context"] = True
        yield step_of(number, [t.message for t in turns], **fields)


def _grouped(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Return the turns, those of tools together with the answer that they follow at once."""
    groups: list[list[Turn]] = []
    for turn in turns:
        if turn.message["role"] == "tool" and groups and groups[-1][0].message["role"] == "assistant":
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return groups


def _metrics(turn: Turn) -> Metrics:
    assert turn.call is not None
    tokens = turn.call.tokens
    completion = tokens.completions[turn.completion]
    return Metrics(
        prompt_tokens=len(tokens.prompt_ids) or None,
        completion_tokens=len(completion.token_ids) or None,
        prompt_token_ids=list(tokens.prompt_ids) or None,
        completion_token_ids=list(completion.token_ids) or None,
        logprobs=list(completion.logprobs) or None if is_finite(completion.logprobs) else None,
    )


def _final_metrics(trace: Trace, steps: int) -> FinalMetrics:
    calls = [call.tokens for call in trace.calls]
    score = trace.about.get("score") or {}
    extra = {"reward": score.get("value"), "metrics": trace.about.get("metrics")}
    known = {key: value for key, value in extra.items() if value is not None}
    return FinalMetrics(
        total_prompt_tokens=sum(len(call.prompt_ids) for call in calls) or None,
        total_completion_tokens=sum(len(c.token_ids) for call in calls for c in call.completions) or None,
        total_steps=steps,
        extra=known or None,
    )


def _refer(child: Conversation, conversations: Sequence[Conversation], steps: dict[str, list[Step]]) -> None:
    """Add a reference to `child` to the step of the call that started it, if the trace has it."""
    if child.parent_call_id is None:
        return
    for parent in conversations:
        for number, turns in enumerate(_grouped(parent.turns)):
            if parent is not child and _call_id(turns[0].call) == child.parent_call_id:
                steps[parent.id][number] = _with_reference(steps[parent.id][number], child.id)
                return


def _with_reference(step: Step, trajectory_id: str) -> Step:
    told = [] if step.observation is None else step.observation.results
    reference = ObservationResult(subagent_trajectory_ref=[SubagentTrajectoryRef(trajectory_id=trajectory_id)])
    return step.model_copy(update={"observation": Observation(results=[*told, reference])})


def _call_id(call: ModelCall | None) -> str | None:
    return None if call is None else call.tokens.call_id


def _timestamp(started_s: float) -> str | None:
    return datetime.fromtimestamp(started_s, UTC).isoformat() if 0 < started_s < _LATEST_S else None
