"""Warnings about common silent failures in a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from woodshed.capture import take_late_calls
from woodshed.errors import RolloutError
from woodshed.tokens import PrefixReuse
from woodshed.training.config import AdvantageSettings
from woodshed.training.report.metrics import DRIFT, prefix_reuse
from woodshed.training.report.signal import all_constrained, flat_groups, unjudged_groups, unscored
from woodshed.training.step_request import is_overflow_failure
from woodshed.types import Failure, Group, Trajectory

_DEFAULT = AdvantageSettings()
MERGE_RATIO = 0.95
"""Smallest share of re-sent sampled tokens that should match their original tokens; less is a warning."""
DRIFT_EVERY = 5
"""Consecutive trained steps without a token of the current weights before a warning that drift is unmeasured."""

_FORKS: Mapping[str, str] = {
    "history_edited": "the agent changes messages the model has already seen (a summary, a trimmed history): send "
    "earlier messages unchanged where you can",
    "options_changed": "tools or template options change within a conversation: give every call of an agent the same",
    "template_rewrites": "the chat template renders earlier turns differently once a new one follows, such as without "
    "their reasoning: turn thinking off, or serve the model with a template that keeps it",
    "turn_cut": "answers end before the template's end of turn: raise Policy.max_tokens or max_model_len, and drop "
    "stop strings",
    "not_exact": "the tokenizer does not give sampled text back token by token: look for stray special tokens in it",
    "unsupported": "the model server cannot continue from tokens: update it with `woodshed engine install --force`",
}
"""Reason of a fork → its cause and what to do."""


def check_rollouts(trajectories: Sequence[Trajectory]) -> None:
    """Raise if every rollout of a step failed.

    Raises:
        RolloutError: every rollout failed; the message contains the most frequent reason.
    """
    failed = [t for t in trajectories if t.status != "completed"]
    if trajectories and len(failed) == len(trajectories):
        reasons = Counter(str(t.error) for t in failed if t.error).most_common(1)
        reason = reasons[0][0] if reasons else "no reason was recorded"
        raise RolloutError(
            f"all {len(failed)} rollouts of the step failed, most often with {reason!r}. Run your rollout function "
            "once by hand on one scenario; nothing was trained on these rollouts"
        )


def step_warnings(groups: Sequence[Group], tolerance: float, settings: AdvantageSettings = _DEFAULT) -> list[str]:
    """Return warnings about the step's rollouts and scores, one text per problem."""
    members = [t for g in groups for t in g.trajectories]
    rewards = (unjudged_groups(groups), unscored(groups), flat_groups(groups, tolerance))
    return [w for w in (*_model_warnings(members, settings), *rewards) if w]


def late_calls() -> list[str]:
    """Return warnings about model calls that were refused because they belong to no rollout, or to one that ended."""
    return [f"{count} model calls were refused: {message}" for message, count in take_late_calls().items()]


def _model_warnings(members: Sequence[Trajectory], settings: AdvantageSettings) -> list[str]:
    answers = [(c.tokens, m) for t in members for c in t.calls for m in c.tokens.completions]
    offered = [m for call, m in answers if call.tools]
    requested = [r for m in offered for r in m.message.tool_requests]
    warnings = []
    if not answers:
        warnings.append(
            "no model call was recorded in any rollout: the agent does not reach the policy. Is its framework's "
            "adapter on (`wrap(graph)`), or does its client use `woodshed.current_rollout().base_url`?"
        )
    if offered and not requested:
        warnings.append(
            f"not one tool was called in {len(offered)} answers although tools were offered: does "
            "Policy.tool_call_parser fit the model's chat template, and can the base model call tools at all?"
        )
    if nameless := sum(1 for r in requested if not r.name.strip()):
        warnings.append(f"{nameless} of {len(requested)} tool calls have an empty name: check Policy.tool_call_parser")
    if anonymous := sum(1 for r in requested if not r.id):
        warnings.append(
            f"{anonymous} of {len(requested)} tool calls have no id: tool results cannot be matched to them"
        )
    if constrained := all_constrained(members):
        warnings.append(constrained)
    cut = sum(1 for _, m in answers if m.finish_reason == "length")
    if answers and cut > len(answers) / 2:
        warnings.append(
            f"{cut} of {len(answers)} answers were cut at max_tokens: raise Policy.max_tokens or max_model_len"
        )
    failed = [t for t in members if t.status != "completed"]
    if zeroed := [t for t in failed if is_overflow_failure(t, settings)]:
        failed = [t for t in failed if t not in zeroed]
        warnings.append(
            f"{len(zeroed)} of {len(members)} rollouts grew longer than the model's context and count as failures "
            "(AdvantageSettings.overflowed='fail')"
        )
    if failed:
        kinds = ", ".join(f"{n} × {k}" for k, n in Counter(t.error.kind for t in failed if t.error).most_common())
        first = next((_with_place(t.error) for t in failed if t.error), "")
        warnings.append(f"{len(failed)} of {len(members)} rollouts failed and are masked ({kinds}); the first: {first}")
    if overflowed := sum(t.error is not None and t.error.cause == "overflow" for t in failed):
        warnings.append(
            f"{overflowed} of {len(members)} rollouts grew longer than the model's context: raise "
            "Policy.max_model_len, shorten what the agent keeps, or let them count as failures: "
            "AdvantageSettings(overflowed='fail')"
        )
    return [*warnings, *_prefix_warnings(prefix_reuse(members))]


def _with_place(error: Failure) -> str:
    return error.message + (f" ({error.where})" if error.where else "")


def _prefix_warnings(reuse: PrefixReuse) -> list[str]:
    if reuse.ratio >= MERGE_RATIO:
        return []
    reason, count = max(reuse.forks.items(), key=lambda item: item[1], default=("no reason", 0))
    advice = _FORKS.get(reason, "the engine gave no reason: does it have the same version as this client?")
    return [
        f"only {reuse.ratio:.2f} of the re-sent sampled tokens matched the original tokens (tokens/merge_ratio; "
        f"expected {MERGE_RATIO} or more). Nothing is trained twice or out of context, but conversations are computed "
        f"again, and the model continues from text it did not sample. Most often, in {count} calls, {reason}: {advice}"
    ]


def drift_unmeasured(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Return a warning once exactly the last `DRIFT_EVERY` trained steps had no token of the weights they trained."""
    measured = [DRIFT in row for row in reversed(history) if row["trained"]]
    if len(list(takewhile(lambda was_measured: not was_measured, measured))) != DRIFT_EVERY:
        return None
    return (
        f"in the last {DRIFT_EVERY} trained steps every token was sampled by older weights, and the short answers that "
        "were asked for to measure the drift between engine and trainer could not be used (the run's log says why), so "
        "LossSettings.drift_stop guards nothing; max_staleness=0 measures it on the rollouts themselves"
    )
