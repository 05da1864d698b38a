"""Judged groups → the trainer's step request: which rollouts, with what advantages; stale groups are split off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from woodshed.rewards.advantage import batch_advantages, role_advantages
from woodshed.rewards.partial_scores import UNNAMED
from woodshed.training.config import AdvantageSettings
from woodshed.types import Group, Score, StepRequest, Trajectory, WeightedRollout

_DEFAULT = AdvantageSettings()


def step_request(
    step_id: str, groups: Sequence[Group], tolerance: float, settings: AdvantageSettings = _DEFAULT
) -> StepRequest:
    """Return the step's rollouts with their group-relative advantages. Masked rollouts are left out, not rewarded 0."""
    scored = {group.group_id: _scores(group, settings) for group in groups}
    if settings.per == "agent":
        weighted = [w for group in scored.values() for w in _per_agent(group, tolerance, settings)]
    else:
        values = {name: {i: score.value for i, (_, score) in group.items()} for name, group in scored.items()}
        advantages = batch_advantages(values, tolerance=tolerance, scale=settings.scale)
        weighted = [_weighted(scored[name][i][0], a) for name, g in advantages.items() for i, a in g.values.items()]
    return StepRequest(step_id=step_id, rollouts=tuple(weighted))


def is_flat(group: Group, tolerance: float, settings: AdvantageSettings = _DEFAULT) -> bool:
    """Whether a group has two or more scores and all are equal: it trains nothing."""
    return len(_scores(group, settings)) > 1 and not step_request("flat", [group], tolerance, settings).rollouts


def split_stale(groups: Sequence[Group], *, version: int, max_staleness: int) -> tuple[list[Group], list[Group]]:
    """Return the groups to train at weights `version`, and those with a token from weights that are too old."""
    fresh: list[Group] = []
    stale: list[Group] = []
    for group in groups:
        (stale if version - _oldest(group, version) > max_staleness else fresh).append(group)
    return fresh, stale


def _oldest(group: Group, version: int) -> int:
    counted = (t for t in group.trajectories if t.status == "completed" or (t.error and t.error.cause == "overflow"))
    sampled = (v for t in counted for c in t.calls for m in c.tokens.completions for v in m.weight_versions)
    return min(sampled, default=version)


Scored = Mapping[str, tuple[Trajectory, Score]]
"""Rollout id → a completed rollout and its score, with the overlong penalty applied."""


def _scores(group: Group, settings: AdvantageSettings) -> Scored:
    if group.judgement is None or group.judgement.error is not None:
        return {}
    completed = {t.rollout_id: t for t in group.trajectories if t.status == "completed"}
    scored = [(completed[s.rollout_id], s) for s in group.judgement.scores if s.rollout_id in completed]
    kept = [(t, s) for t, s in scored if not is_filtered(t, settings)]
    penalised = [(t, _penalised(s, settings.penalty(_longest_answer(t)))) for t, s in kept]
    overflowed = [t for t in group.trajectories if is_overflow_failure(t, settings)]
    lowest = min([0.0, *(s.value for _, s in penalised)])
    failed = [(t, Score(rollout_id=t.rollout_id, value=lowest)) for t in overflowed]
    return {t.rollout_id: (t, s) for t, s in (*penalised, *failed)}


def is_filtered(trajectory: Trajectory, settings: AdvantageSettings) -> bool:
    """Whether overlong filtering masks a rollout: one of its answers was cut at the token limit."""
    kept = (c for c in trajectory.calls if not c.superseded)
    return settings.overlong_filtering and any(m.finish_reason == "length" for c in kept for m in c.tokens.completions)


def is_overflow_failure(trajectory: Trajectory, settings: AdvantageSettings) -> bool:
    """Whether a rollout counts as a failure because its conversation did not fit the model's context."""
    error = trajectory.error
    return settings.overflowed == "fail" and error is not None and error.cause == "overflow" and bool(trajectory.calls)


def _penalised(score: Score, penalty: float) -> Score:
    agents = {name: value + penalty for name, value in score.agents.items()}
    return score.model_copy(update={"value": score.value + penalty, "agents": agents})


def _longest_answer(trajectory: Trajectory) -> int:
    kept = (c for c in trajectory.calls if not c.superseded)
    return max((len(m.token_ids) for c in kept for m in c.tokens.completions), default=0)


def _per_agent(scored: Scored, tolerance: float, settings: AdvantageSettings) -> list[WeightedRollout]:
    """Return a group's rollouts with one advantage per call: that of its agent, relative to the other rollouts."""
    assert settings.scale != "batch"
    by_agent = {
        rollout_id: {agent: score.agents.get(agent, score.value) for agent in _agents(trajectory).values()}
        for rollout_id, (trajectory, score) in scored.items()
    }
    advantages = role_advantages(by_agent, tolerance=tolerance, scale=settings.scale)
    if not any(advantages.values()):
        return []
    return [
        _weighted(trajectory, 0.0, {call: advantages[i].get(agent, 0.0) for call, agent in _agents(trajectory).items()})
        for i, (trajectory, _) in scored.items()
    ]


def _agents(trajectory: Trajectory) -> dict[str, str]:
    """Return call id → name of its agent. Calls without a recorded agent count as those of one unnamed agent."""
    return {c.tokens.call_id: (c.note.agent if c.note else None) or UNNAMED for c in trajectory.calls}


def _weighted(trajectory: Trajectory, advantage: float, by_call: Mapping[str, float] | None = None) -> WeightedRollout:
    superseded = tuple(c.tokens.call_id for c in trajectory.calls if c.superseded)
    return WeightedRollout(
        rollout_id=trajectory.rollout_id,
        advantage=advantage,
        untrained_call_ids=superseded,
        call_advantages=dict(by_call or {}),
    )
