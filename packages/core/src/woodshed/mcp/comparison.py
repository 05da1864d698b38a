"""Compare rollouts on held-out tasks before and after training, with a judge that sees both side by side."""

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
    """The rollouts of one held-out scenario before and after training."""

    scenario: Scenario
    before: tuple[Trajectory, ...]
    after: tuple[Trajectory, ...]


class Comparison(Record):
    """A judge's mean scores of the rollouts before and after training, shown to it together by scenario."""

    before: float
    after: float
    preferred_after: float
    """Share of the scenarios whose rollouts after training scored higher; ties count half."""
    scenarios: int
    unjudged: int = 0
    cost_usd: float | None = None
    """Cost of the comparison, in addition to the training's `judge_cost_usd`; None if a price is not known."""


def tool_and_answer_given(trajectory: Trajectory, scenario: Scenario) -> float:
    """Return 1.0 if a tool was called, the last tool call succeeded, and the agent gave an answer, else 0.0.

    This can be measured on any server. It does not mean that the answer is correct.
    """
    last_call_succeeded = bool(trajectory.tool_calls) and trajectory.tool_calls[-1].error is None
    output = trajectory.output if isinstance(trajectory.output, dict) else {}
    return float(last_call_succeeded and bool(str(output.get("answer") or "").strip()))


def pairs(store: RunStore, scenarios: Sequence[Scenario], rollouts: int) -> list[Pair]:
    """Return the stored rollouts of both evaluations, by scenario; `rollouts` is their number per evaluation."""
    complete = []
    for scenario in scenarios:
        sides = [
            tuple(t for k in range(rollouts) if (t := store.trajectory(f"{name}/{scenario.id}/{k}")) is not None)
            for name in ("before", "after")
        ]
        if all(sides):
            complete.append(Pair(scenario=scenario, before=sides[0], after=sides[1]))
    return complete


async def compare(reward: Reward, held_out: Sequence[Pair]) -> Comparison | None:
    """Return the judge's comparison; None if it could not judge any scenario."""
    judgements = await gather_all(_judged(reward, pair) for pair in held_out)
    scored = []
    for pair, judgement in zip(held_out, judgements, strict=True):
        values = {} if judgement.error is not None else {s.rollout_id: s.value for s in judgement.scores}
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
        unjudged=len(held_out) - len(scored),
        cost_usd=cost_usd(judgement.cost_usd for judgement in judgements),
    )


async def _judged(reward: Reward, pair: Pair) -> Judgement:
    try:
        return await reward.judge_group((*pair.before, *pair.after))
    except JudgeError as error:
        return Judgement(error=Failure(kind=type(error).__name__, message=str(error)))
