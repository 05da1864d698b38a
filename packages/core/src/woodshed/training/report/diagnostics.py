"""What goes quietly wrong in a step, said loudly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from woodshed.errors import RolloutError
from woodshed.tokens import PrefixReuse
from woodshed.training.report.metrics import DRIFT, merges_of
from woodshed.types import Group, Trajectory

MERGE_RATIO = 0.95
"""Share of re-sent sampled tokens that should stand where they were; less is a warning."""
DRIFT_EVERY = 5
"""Trained steps in a row without a token of the current weights, after which drift counts as unmeasured."""

_FORKS: Mapping[str, str] = {
    "history_edited": "the agent changes messages the model has already seen (a summary, a trimmed history): send "
    "earlier messages as they were wherever you can",
    "options_changed": "tools or template options change within a conversation: give every call of an agent the same",
    "template_rewrites": "the chat template writes earlier turns otherwise once a new one follows, such as without "
    "their reasoning: turn thinking off, or serve the model with a template that keeps it",
    "turn_cut": "answers end before the template's end of turn: raise Policy.max_tokens or max_model_len, and drop "
    "stop strings",
    "not_exact": "the tokenizer does not give sampled text back token by token: look for stray special tokens in it",
    "unsupported": "the model server cannot go on from tokens: renew it with `woodshed engine install --force`",
}
"""Reason of a fork → what is behind it and what to do."""


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
            "adapter on (`wrap(graph)`), or does its client use `woodshed.current_rollout().base_url`?"
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
    return [*found, *_merge_side(merges_of(members))]


def _merge_side(merges: PrefixReuse) -> list[str]:
    if merges.ratio >= MERGE_RATIO:
        return []
    reason, count = max(merges.forks.items(), key=lambda item: item[1], default=("no reason", 0))
    what = _FORKS.get(reason, "the engine gave no reason for it: is it of the same version as this client?")
    return [
        f"only {merges.ratio:.2f} of the sampled tokens that came back stood where they were (tokens/merge_ratio; "
        f"expected {MERGE_RATIO} or more). Nothing is trained twice or out of its context, but histories are computed "
        f"again, and the model goes on from a text it did not quite say. Most often, in {count} calls, {reason}: {what}"
    ]


def drift_unmeasured(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a warning where the last steps, just so many of them, held no token of the weights they trained."""
    measured = [DRIFT in row for row in reversed(history) if row["trained"]]
    if len(list(takewhile(lambda it_was: not it_was, measured))) != DRIFT_EVERY:
        return None
    return (
        f"in the last {DRIFT_EVERY} trained steps every token was sampled by older weights, so the drift between "
        "engine and trainer could not be measured and LossSettings.drift_stop guards nothing; max_staleness=0 measures "
        "it in every step"
    )


def _reward_side(groups: Sequence[Group], tolerance: float) -> list[str]:
    unjudged = [g for g in groups if g.judgement is None or g.judgement.error is not None]
    found = []
    if unjudged:
        why = next((g.judgement.error.message for g in unjudged if g.judgement and g.judgement.error), "no verdict")
        found.append(f"{len(unjudged)} of {len(groups)} groups have no verdict and are masked; the first says: {why}")
    verdicts = [g.judgement for g in groups if g.judgement is not None and g.judgement.error is None]
    judged = [j for j in verdicts if len(j.scores) > 1]
    flat = [j for j in judged if _spread([s.value for s in j.scores]) <= tolerance]
    if judged and len(flat) == len(judged):
        found.append(
            f"all {len(judged)} judged groups have equal scores, so nothing can be learned from them: are the "
            "scenarios too easy or too hard, is the temperature too low, does the rubric tell attempts apart?"
        )
    return found


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values) if values else 0.0
