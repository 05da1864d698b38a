"""What became of a step's attempts in training: their advantage, or why they were left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from woodshed.errors import WoodshedError
from woodshed.training.config import AdvantageSettings
from woodshed.training.run.read_store import ReadStore
from woodshed.training.step_request import is_filtered, is_flat, split_stale, step_request
from woodshed.types import Group
from woodshed.view.conversation import Json


def training_states(
    store: ReadStore, settings: Mapping[str, Any], step: int, groups: Sequence[Group]
) -> dict[str, Json]:
    """Return rollout id → `state` (`trained`, `masked`, `waiting`), the reason in words, and the advantage if any.

    Args:
        store: The run's store.
        settings: The run's `config.json`.
        step: Number of the step, from 0.
        groups: The groups to say it of; all of the step's where its advantages are scaled by the whole batch.
    """
    config = settings.get("config") or {}
    try:
        advantage = AdvantageSettings(**config.get("advantage", {}))
    except WoodshedError:
        return {}  # settings of another woodshed
    tolerance = config.get("score_tolerance", 1e-3)
    done = store.step(f"step-{step:05d}")
    weights = {w.rollout_id: w for w in step_request("view", groups, tolerance, advantage).rollouts}
    stale: list[Group] = []
    if done is not None:
        history = store.history()
        before = history[step - 1]["version"] if step else store.fact("start_version") or 0
        limit = (settings.get("limits") or {}).get("max_staleness", 1)
        stale = split_stale(groups, version=before, max_staleness=limit)[1]
    states = {}
    for group in groups:
        scored = {s.rollout_id for s in group.judgement.scores} if group.judgement else set()
        for t in group.trajectories:
            weight = weights.get(t.rollout_id)
            value = None if weight is None else weight.advantage
            if t.status != "completed" and weight is None:
                why = f"the attempt {'took too long' if t.status == 'timed_out' else 'failed'}"
            elif group.judgement is None:
                why = "not judged yet"
            elif group.judgement.error is not None:
                why = "its group has no verdict"
            elif t.rollout_id in group.judgement.failures:
                why = f"its reward failed: {group.judgement.failures[t.rollout_id]}"
            elif is_filtered(t, advantage):
                why = "an answer was cut at its token limit (overlong_filtering)"
            elif t.rollout_id not in scored and weight is None:
                why = "it has no score"
            elif is_flat(group, tolerance, advantage):
                why = "all scores of its group are equal"
            elif any(g.group_id == group.group_id for g in stale):
                why = "its weights were too old (max_staleness)"
            elif done is not None and t.rollout_id in done[0].quarantined:
                why = done[0].quarantined[t.rollout_id]
            elif done is not None and not done[0].trained:
                why = "the step trained nothing"
            else:
                states[t.rollout_id] = {"state": "waiting" if done is None else "trained", "advantage": value}
                continue
            state = "waiting" if group.judgement is None and t.status == "completed" else "masked"
            states[t.rollout_id] = {"state": state, "why": why, "advantage": None}
    return states
