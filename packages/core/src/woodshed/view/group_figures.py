"""The figures of every judged group: read from the store once each, and kept while the run goes on."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from typing import Any

from woodshed.training.run.read_store import ReadStore


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupFigures:
    """One group's scores in short."""

    group_id: str
    step: int
    scenario: str
    scored: int
    """Attempts with a score."""
    mean: float | None
    spread: float | None
    """Standard deviation of the scores; 0 where all are equal, None without two of them."""
    best: float | None
    worst: float | None
    consistency: float | None
    distinct: int | None
    error: str | None


def figures_of(store: ReadStore, memory: dict[str, Any]) -> dict[str, GroupFigures]:
    """Return group id → figures of all groups of the run's steps; only rows that are new are read.

    Args:
        store: The run's store.
        memory: What the last call kept; changed here.
    """
    count, last = store.rows("SELECT count(*), coalesce(max(rowid), 0) FROM judgements")[0]
    kept: dict[str, GroupFigures] = memory.get("groups", {})
    # Fewer new rows than the count grew by, or rows that went: some were renamed, and all is read anew.
    seen, seen_count = memory.get("groups_seen", (0, 0))
    rows = store.rows("SELECT group_id, body FROM judgements WHERE rowid > ?", seen)
    if count < seen_count or (not rows and count != seen_count) or _aside(store) != memory.get("groups_aside", 0):
        kept, rows = {}, store.rows("SELECT group_id, body FROM judgements")
    kept = kept | {group_id: found for group_id, body in rows if (found := _figures(group_id, body)) is not None}
    memory |= {"groups": kept, "groups_seen": (last, count), "groups_aside": _aside(store)}
    return kept


def _aside(store: ReadStore) -> int:
    return int(store.value("SELECT count(*) FROM judgements WHERE NOT group_id GLOB '[0-9]*'"))


def _figures(group_id: str, body: str) -> GroupFigures | None:
    step, _, scenario = group_id.partition("/")
    if not step.isdigit():
        return None  # set aside: sampled again under the same id
    judgement = json.loads(body)
    values = [s["value"] for s in judgement["scores"] if math.isfinite(s["value"])]
    error = judgement.get("error")
    return GroupFigures(
        group_id=group_id,
        step=int(step),
        scenario=scenario,
        scored=len(values),
        mean=statistics.fmean(values) if values else None,
        spread=statistics.pstdev(values) if len(values) > 1 else None,
        best=max(values, default=None),
        worst=min(values, default=None),
        consistency=judgement.get("consistency"),
        distinct=judgement.get("distinct"),
        error=f"{error['kind']}: {error['message']}" if error else None,
    )


def spread_by_step(figures: dict[str, GroupFigures]) -> dict[int, float]:
    """Return step → mean spread of its groups."""
    spreads: dict[int, list[float]] = {}
    for group in figures.values():
        if group.spread is not None:
            spreads.setdefault(group.step, []).append(group.spread)
    return {step: statistics.fmean(values) for step, values in spreads.items()}
