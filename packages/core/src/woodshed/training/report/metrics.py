"""One history row per step: sampled tokens, scores, training metrics, durations and costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from woodshed.tokens import PrefixReuse, measure_prefix_reuse
from woodshed.training.config import AdvantageSettings
from woodshed.training.rollouts.groups import StepGroups
from woodshed.training.step_request import is_overflow_failure
from woodshed.types import Group, StepReport, Trajectory

_DEFAULT = AdvantageSettings()

DRIFT = "train/logprob_drift_fresh"
"""Key of the mean drift between trainer and engine in nats; missing without a token of the trained weights."""


def step_row(
    step: int,
    sampled: StepGroups,
    report: StepReport,
    *,
    stale: Sequence[Group],
    wait_s: float,
    train_s: float,
    settings: AdvantageSettings = _DEFAULT,
) -> dict[str, Any]:
    """Return the step's history row.

    `rollout_s` runs from the first rollout to the last judgement and may overlap with the previous step's training;
    `wait_s` is the time the step itself waited for them.
    """
    members = [t for g in sampled.groups for t in g.trajectories]
    sampled_tokens = sum(len(m.token_ids) for t in members for c in t.calls for m in c.tokens.completions)
    return {
        "step": step,
        **_judge_metrics(sampled.groups),
        "rollouts": len(members),
        "masked": sum(t.status != "completed" and not is_overflow_failure(t, settings) for t in members),
        "flat_groups": sampled.flat,
        "extra_groups": sampled.extra,
        "stale_groups": len(stale),
        "calls": sum(len(t.calls) for t in members),
        "sampled_tokens": sampled_tokens,
        "tokens_per_s": sampled_tokens / sampled.seconds,
        **_prefix_metrics(prefix_reuse(members)),
        "rollout_s": sampled.seconds,
        "wait_s": wait_s,
        "train_s": train_s,
        "version": report.version,
        "trained": report.trained,
        "quarantined": len(report.quarantined),
        **{f"train/{k}": v for k, v in report.metrics.items()},
    }


def prefix_reuse(members: Sequence[Trajectory]) -> PrefixReuse:
    """Return the prefix reuse of all rollouts, measured within each rollout."""
    return sum((measure_prefix_reuse([c.tokens for c in t.calls]) for t in members), PrefixReuse())


def _prefix_metrics(reuse: PrefixReuse) -> dict[str, Any]:
    return {
        "tokens/merge_ratio": reuse.ratio,
        "tokens/forks": sum(reuse.forks.values()),
        "tokens/resent": reuse.resent,
        "tokens/continued": reuse.continued,
    }


def _judge_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    judgements = [g.judgement for g in groups if g.judgement is not None]
    scores = [s.value for j in judgements for s in j.scores]
    return {
        "reward": sum(scores) / len(scores) if scores else None,
        # Groups whose attempts differ, and the judge gave all the same: its failure, not the policy's sameness.
        "indifferent_groups": sum((j.distinct or 0) > 1 and len({s.value for s in j.scores}) == 1 for j in judgements),
        "unjudged_groups": sum(j.error is not None for j in judgements),
        "judge_requests": sum(j.requests for j in judgements),
        "judge_tokens": sum(j.prompt_tokens + j.completion_tokens for j in judgements),
        "judge_cost_usd": cost_usd(j.cost_usd if j.requests else 0.0 for j in judgements),
    }


def cost_usd(costs: Iterable[float | None]) -> float | None:
    """Return the sum of costs; None if any of them is not known."""
    known = list(costs)
    return None if None in known else math.fsum(c for c in known if c is not None)
