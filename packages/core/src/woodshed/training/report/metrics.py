"""One row of a run's history: what a step sampled, what its judge said, what was trained, and what it took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from woodshed.tokens import PrefixReuse, measure_prefix_reuse
from woodshed.training.rollouts.groups import StepGroups
from woodshed.types import Group, StepReport, Trajectory

DRIFT = "train/logprob_drift_fresh"
"""Key of the mean drift between trainer and engine; missing where a step had no token of the weights it trained."""


def step_row(
    step: int, batch: StepGroups, report: StepReport, *, stale: Sequence[Group], wait_s: float, train_s: float
) -> dict[str, Any]:
    """Return the step's row.

    `rollout_s` is what its rollouts and verdicts took from first to last, also while the step before was trained;
    `wait_s` is what the step itself waited for them.
    """
    members = [t for g in batch.groups for t in g.trajectories]
    sampled = sum(len(m.token_ids) for t in members for c in t.calls for m in c.tokens.completions)
    return {
        "step": step,
        **_judged(batch.groups),
        "rollouts": len(members),
        "masked": sum(t.status != "completed" for t in members),
        "flat_groups": batch.flat,
        "extra_groups": batch.extra,
        "stale_groups": len(stale),
        "calls": sum(len(t.calls) for t in members),
        "sampled_tokens": sampled,
        "tokens_per_s": sampled / batch.seconds,
        **_merged(merges_of(members)),
        "rollout_s": batch.seconds,
        "wait_s": wait_s,
        "train_s": train_s,
        "version": report.version,
        "trained": report.trained,
        "quarantined": len(report.quarantined),
        **{f"train/{k}": v for k, v in report.metrics.items()},
    }


def merges_of(members: Sequence[Trajectory]) -> PrefixReuse:
    """Return how the calls of all rollouts merge, each rollout for itself."""
    return sum((measure_prefix_reuse([c.tokens for c in t.calls]) for t in members), PrefixReuse())


def _merged(merges: PrefixReuse) -> dict[str, Any]:
    return {
        "tokens/merge_ratio": merges.ratio,
        "tokens/forks": sum(merges.forks.values()),
        "tokens/resent": merges.resent,
        "tokens/continued": merges.continued,
    }


def _judged(groups: Sequence[Group]) -> dict[str, Any]:
    verdicts = [g.judgement for g in groups if g.judgement is not None]
    scores = [s.value for v in verdicts for s in v.scores]
    return {
        "reward": sum(scores) / len(scores) if scores else None,
        "unjudged_groups": sum(v.error is not None for v in verdicts),
        "judge_requests": sum(v.requests for v in verdicts),
        "judge_tokens": sum(v.prompt_tokens + v.completion_tokens for v in verdicts),
        "judge_cost_usd": cost_usd(v.cost_usd if v.requests else 0.0 for v in verdicts),
    }


def cost_usd(costs: Iterable[float | None]) -> float | None:
    """Return the sum; None, not 0, where one of them is not known."""
    known = list(costs)
    return None if None in known else math.fsum(c for c in known if c is not None)
