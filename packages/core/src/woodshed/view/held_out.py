"""The held-out scenarios of a run: what the agent did on the same one before, during and after training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from woodshed.training.report.evaluations import evaluations
from woodshed.training.run.read_store import ReadStore
from woodshed.types import Trajectory
from woodshed.view.conversation import Json, conversations, shared_messages
from woodshed.view.differences import mark
from woodshed.view.groups import PAGE, group_rows, summary
from woodshed.view.reader import RunReader

_TEXT = 6_000
_ATTEMPTS = 3
"""Attempts at one scenario that are shown in full; of the others only the figures."""


def scenarios(run: RunReader, *, offset: int = 0, limit: int = PAGE) -> Json:
    """Return a page of the held-out scenarios, with their success at each evaluation."""
    with run.store() as store:
        points = _points(store)
        ids = _scenario_ids(run.settings(), store, points)
        by_rollout = {name: store.fact(f"measured_{name}") or {} for name, _ in points}
        items = [
            {
                "scenario": scenario,
                "success": [_mean(_values(store, name, scenario, by_rollout[name])) for name, _ in points],
            }
            for scenario in ids[offset : offset + limit]
        ]
    return {"total": len(ids), "offset": offset, "points": [label for _, label in points], "items": items}


def scenario(run: RunReader, scenario_id: str) -> Json:
    """Return the attempts at one held-out scenario, evaluation by evaluation."""
    with run.store() as store:
        points = _points(store)
        ids = _scenario_ids(run.settings(), store, points)
        columns = [_column(store, name, label, scenario_id) for name, label in points]
    at = ids.index(scenario_id) if scenario_id in ids else -1
    return {
        "scenario": scenario_id,
        **_folded(columns),
        "previous": ids[at - 1] if at > 0 else None,
        "next": ids[at + 1] if 0 <= at < len(ids) - 1 else None,
    }


def _folded(columns: list[Json]) -> Json:
    """Fold away what all attempts share, and mark where each differs from the first one of the first evaluation."""
    shown = [a for column in columns for a in column["attempts"] if a["conversations"]]
    if not shown:
        return {"shared": [], "columns": columns}
    shared = shared_messages([a["conversations"] for a in shown])
    messages = shown[0]["conversations"][0]["messages"]
    for a in shown:
        head = a["conversations"][0]
        a["conversations"] = [{**head, "messages": head["messages"][shared:]}, *a["conversations"][1:]]
    reference = _messages(shown[0])
    for a in shown[1:]:
        marked = iter(mark(_messages(a), reference))
        a["conversations"] = [{**c, "messages": [next(marked) for _ in c["messages"]]} for c in a["conversations"]]
    return {"shared": messages[:shared], "columns": columns}


def _messages(attempt: Json) -> list[Json]:
    return [message for conversation in attempt["conversations"] for message in conversation["messages"]]


def _column(store: ReadStore, name: str, label: str, scenario_id: str) -> Json:
    slot = name.replace("_", "-")
    values: Mapping[str, float] = store.fact(f"measured_{name}") or {}
    attempts = []
    for number, (key, body) in enumerate(group_rows(store, f"{slot}/{scenario_id}")):
        found = Trajectory.model_validate_json(body)
        attempts.append(
            {
                **summary(found, int(key.rpartition("/")[2])),
                "slot": key,
                "measured": values.get(found.rollout_id),
                "conversations": conversations(found, limit=_TEXT) if number < _ATTEMPTS else [],
            }
        )
    return {"label": label, "success": _mean([a["measured"] for a in attempts]), "attempts": attempts}


def _points(store: ReadStore) -> list[tuple[str, str]]:
    """Return name and label of every evaluation that is finished, in the order of the steps."""
    history = store.history()
    named = []
    for point in evaluations(store, history):
        ends = {0: "before", len(history): "after"}
        name = ends.get(point.step, f"after_step_{point.step}")
        if store.fact(f"success_{name}") is None:
            name = f"after_step_{point.step}"
        named.append((name, "before training" if not point.step else f"after step {point.step}"))
    return named


def _scenario_ids(settings: Mapping[str, Any], store: ReadStore, points: list[tuple[str, str]]) -> list[str]:
    known = (settings.get("evaluation") or {}).get("ids")
    if known or not points:
        return list(known or ())
    slot = points[0][0].replace("_", "-")
    found = store.rows("SELECT slot FROM trajectories WHERE slot >= ? || '/' AND slot < ? || '0'", slot, slot)
    return sorted({key.partition("/")[2].rpartition("/")[0] for (key,) in found})


def _values(store: ReadStore, name: str, scenario_id: str, measured: Mapping[str, float]) -> list[float | None]:
    group = f"{name.replace('_', '-')}/{scenario_id}"
    found = store.rows(
        "SELECT slot, rollout_id FROM trajectories WHERE slot >= ? || '/' AND slot < ? || '0'", group, group
    )
    return [measured.get(rollout_id) for slot, rollout_id in found if slot.rpartition("/")[0] == group]


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None
