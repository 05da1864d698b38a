"""What goes quietly wrong in the first step, said loudly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from etude.errors import RolloutError
from etude.types import Group, Trajectory


def check_rollouts(trajectories: Sequence[Trajectory]) -> None:
    """Raise where a whole step brought nothing back.

    Raises:
        RolloutError: every rollout of the step failed; the message holds the most frequent reason.
    """
    failed = [t for t in trajectories if t.status != "completed"]
    if trajectories and len(failed) == len(trajectories):
        why = Counter(f"{t.error.kind}: {t.error.message}" for t in failed if t.error).most_common(1)
        reason = why[0][0] if why else "no reason was recorded"
        raise RolloutError(
            f"all {len(failed)} rollouts of the step failed, most often with {reason!r}. Run your rollout function "
            "once by hand on one scenario; nothing was trained on these rollouts"
        )


def step_warnings(groups: Sequence[Group], tolerance: float) -> list[str]:
    """Return what a reader of the first steps must know, one sentence a finding."""
    members = [t for g in groups for t in g.trajectories]
    return [w for w in (*_model_side(members), *_reward_side(groups, tolerance)) if w]


def _model_side(members: Sequence[Trajectory]) -> list[str]:
    answers = [(c.tokens, m) for t in members for c in t.calls for m in c.tokens.completions]
    offered = [m for call, m in answers if call.tools]
    asked = [r for m in offered for r in m.message.tool_requests]
    found = []
    if not answers:
        found.append(
            "no model call was recorded in any rollout: the agent does not reach the policy. Is its framework's "
            "adapter on (`wrap(graph)`), or does its client use `etude.current_rollout().base_url`?"
        )
    if offered and not asked:
        found.append(
            f"not one tool was called in {len(offered)} answers although tools were offered: does "
            "Policy.tool_call_parser fit the model's chat template, and can the base model call tools at all?"
        )
    if nameless := sum(1 for r in asked if not r.name.strip()):
        found.append(f"{nameless} of {len(asked)} tool calls have an empty name: check Policy.tool_call_parser")
    if anonymous := sum(1 for r in asked if not r.id):
        found.append(f"{anonymous} of {len(asked)} tool calls have no id: tool results cannot be matched to them")
    cut = sum(1 for _, m in answers if m.finish_reason == "length")
    if answers and cut > len(answers) / 2:
        found.append(
            f"{cut} of {len(answers)} answers were cut at max_tokens: raise Policy.max_tokens or max_model_len"
        )
    failed = [t for t in members if t.status != "completed"]
    if failed:
        kinds = ", ".join(f"{n} × {k}" for k, n in Counter(t.error.kind for t in failed if t.error).most_common())
        found.append(f"{len(failed)} of {len(members)} rollouts failed and are masked ({kinds})")
    return found


def _reward_side(groups: Sequence[Group], tolerance: float) -> list[str]:
    unjudged = [g for g in groups if g.judgement is None or g.judgement.error is not None]
    found = []
    if unjudged:
        why = next((g.judgement.error.message for g in unjudged if g.judgement and g.judgement.error), "no verdict")
        found.append(f"{len(unjudged)} of {len(groups)} groups have no verdict and are masked; the first says: {why}")
    judged = [g.judgement for g in groups if g.judgement is not None and g.judgement.error is None]
    flat = [j for j in judged if _spread([s.value for s in j.scores]) <= tolerance]
    if judged and len(flat) == len(judged):
        found.append(
            f"all {len(judged)} judged groups have equal scores, so nothing can be learned from them: are the "
            "scenarios too easy or too hard, is the temperature too low, does the rubric tell attempts apart?"
        )
    return found


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values) if values else 0.0
