"""Before and after on held-out tasks: what a judge thinks of both side by side, and examples to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from woodshed.errors import JudgeError
from woodshed.mcp.scenario import Scenario
from woodshed.rewards.aggregate import gather_all
from woodshed.rewards.base import Reward
from woodshed.training.report.metrics import cost_usd
from woodshed.training.run.store import RunStore
from woodshed.types import Failure, Judgement, Record, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The rollouts of one held-out scenario under the first and the last weights."""

    scenario: Scenario
    before: tuple[Trajectory, ...]
    after: tuple[Trajectory, ...]


class Comparison(Record):
    """A judge's scores of the rollouts before and after training, each scenario's shown to it side by side."""

    before: float
    after: float
    preferred_after: float
    """Share of the scenarios whose rollouts after training scored higher; ties count half."""
    scenarios: int
    unjudged: int = 0
    cost_usd: float | None = None
    """What the judge took for it, beside the training's `judge_cost_usd`; None where a price is not known."""


def worked(trajectory: Trajectory, scenario: Scenario) -> float:
    """Return 1.0 where a tool was called, the last call of one went well, and an answer was given, else 0.0.

    This is what can be said of any server without knowing the truth. It does not say that the answer is right.
    """
    went_well = bool(trajectory.tool_calls) and trajectory.tool_calls[-1].error is None
    output = trajectory.output if isinstance(trajectory.output, dict) else {}
    return float(went_well and bool(str(output.get("answer") or "").strip()))


def pairs(store: RunStore, scenarios: Sequence[Scenario], rollouts: int) -> list[Pair]:
    """Return what a run keeps of its two evaluations."""
    found = []
    for one in scenarios:
        sides = [
            tuple(t for k in range(rollouts) if (t := store.trajectory(f"{name}/{one.id}/{k}")) is not None)
            for name in ("before", "after")
        ]
        if all(sides):
            found.append(Pair(scenario=one, before=sides[0], after=sides[1]))
    return found


async def compare(reward: Reward, found: Sequence[Pair]) -> Comparison | None:
    """Return the judge's comparison; None where it could judge nothing."""
    verdicts = await gather_all(_judged(reward, pair) for pair in found)
    scored = []
    for pair, verdict in zip(found, verdicts, strict=True):
        values = {} if verdict.error is not None else {s.rollout_id: s.value for s in verdict.scores}
        sides = [[values[t.rollout_id] for t in side if t.rollout_id in values] for side in (pair.before, pair.after)]
        if all(sides):
            scored.append((fmean(sides[0]), fmean(sides[1])))
    if not scored:
        return None
    return Comparison(
        before=fmean(b for b, _ in scored),
        after=fmean(a for _, a in scored),
        preferred_after=fmean(1.0 if a > b else 0.5 if a == b else 0.0 for b, a in scored),
        scenarios=len(scored),
        unjudged=len(found) - len(scored),
        cost_usd=cost_usd(verdict.cost_usd for verdict in verdicts),
    )


async def _judged(reward: Reward, pair: Pair) -> Judgement:
    try:
        return await reward.judge_group((*pair.before, *pair.after))
    except JudgeError as error:
        return Judgement(error=Failure(kind=type(error).__name__, message=str(error)))
