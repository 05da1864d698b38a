"""What a step's judged groups can teach: its reasons where there is nothing, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from woodshed.types import Group, StepReport, Trajectory


def nothing_trained(groups: Sequence[Group], report: StepReport, tolerance: float) -> str:
    """Return why a step trained nothing, most telling reason first, and what to do."""
    members = [t for g in groups for t in g.trajectories]
    texts = [all_constrained(members), flat_groups(groups, tolerance), unjudged_groups(groups), unscored(groups)]
    reasons = [text for text in texts if text is not None]
    if not reasons and report.quarantined:
        why, count = Counter(report.quarantined.values()).most_common(1)[0]
        reasons = [f"the trainer left out {count} rollouts: {why}"]
    return "; ".join(reasons) or "no group had two rollouts with a score to compare"


def all_constrained(members: Sequence[Trajectory]) -> str | None:
    """Return a warning if every answer was sampled under a constraint, so that none of them can be trained."""
    calls = [c.tokens for t in members for c in t.calls if c.tokens.completions]
    if not calls or not all(c.constrained for c in calls):
        return None
    return (
        f"all {len(calls)} answers were sampled under a constraint (response_format, or a forced tool_choice), so "
        "their log-probabilities are not the policy's and none of them can ever be trained: ask for the format in "
        "the prompt instead, and use tool_choice='auto'"
    )


def flat_groups(groups: Sequence[Group], tolerance: float) -> str | None:
    """Return a warning if in every scored group all scores are equal, and whether that is for the good or the bad."""
    values = [[s.value for s in g.judgement.scores] for g in groups if g.judgement and g.judgement.error is None]
    judged = [v for v in values if len(v) > 1]
    if not judged or any(max(v) - min(v) > tolerance for v in judged):
        return None
    count = len(judged)
    if all(min(v) >= 1 - tolerance for v in judged):
        return (
            f"all {count} scored groups are solved (every score is {judged[0][0]:g}), so nothing can be learned from "
            "them: the policy can do these scenarios already; give it harder ones, or a reward that tells good from "
            "better"
        )
    if all(max(v) <= tolerance for v in judged):
        return (
            f"all {count} scored groups failed (every score is {judged[0][0]:g}), so nothing can be learned from them: "
            "the scenarios are too hard for this policy; give it easier ones, a reward that counts partial success, a "
            "stronger model, or a start from examples (`woodshed sft`)"
        )
    return (
        f"all {count} scored groups have equal scores, so nothing can be learned from them: are the scenarios too easy "
        "or too hard, is the temperature too low, does the reward (or its rubric) tell attempts apart?"
    )


def unjudged_groups(groups: Sequence[Group]) -> str | None:
    """Return a warning about groups without a verdict."""
    unjudged = [g for g in groups if g.judgement is None or g.judgement.error is not None]
    if not unjudged:
        return None
    error = next((g.judgement.error for g in unjudged if g.judgement and g.judgement.error), None)
    first = "no judgement" if error is None else f"{error.message}{f' ({error.where})' if error.where else ''}"
    return f"{len(unjudged)} of {len(groups)} groups have no verdict and are masked; the first error: {first}"


def unscored(groups: Sequence[Group]) -> str | None:
    """Return a warning about rollouts whose reward could not be computed while those of others could."""
    judged = [g.judgement for g in groups if g.judgement is not None and g.judgement.error is None]
    failures = [f for judgement in judged for f in judgement.failures.values()]
    if not failures:
        return None
    kinds = ", ".join(f"{n} × {kind}" for kind, n in Counter(f.kind for f in failures).most_common())
    return f"the reward of {len(failures)} rollouts failed ({kinds}) and masks them; the first: {failures[0]}"
