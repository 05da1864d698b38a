"""A run's steps and groups, page by page; and one group, its attempts side by side in the judge's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from woodshed.errors import ConfigError
from woodshed.training.run.read_store import ReadStore
from woodshed.types import Group, Judgement, Trajectory
from woodshed.view.conversation import Json, conversations, essence, shared_messages
from woodshed.view.differences import mark
from woodshed.view.group_figures import figures_of
from woodshed.view.reader import RunReader
from woodshed.view.training_state import training_states

_TEXT = 6_000
"""Characters of one text beside others; the page of the attempt itself shows all of it."""
PAGE = 50


def steps(run: RunReader, *, offset: int = 0, limit: int = PAGE) -> Json:
    """Return a page of the run's steps, the newest first, those that are not trained yet among them."""
    with run.store() as store:
        history = store.history()
        figures = figures_of(store, run.memory)
    by_step: dict[int, list[Any]] = {}
    for group in figures.values():
        by_step.setdefault(group.step, []).append(group)
    numbers = sorted({*range(len(history)), *by_step}, reverse=True)
    return {
        "total": len(numbers),
        "offset": offset,
        "items": [
            {
                "step": n,
                "groups": len(by_step.get(n, ())),
                "reward": history[n].get("reward") if n < len(history) else None,
                "flat": sum(g.spread == 0 for g in by_step.get(n, ())),
                "masked": history[n].get("masked") if n < len(history) else None,
                "trained": bool(history[n].get("trained", True)) if n < len(history) else None,
                "version": history[n].get("version") if n < len(history) else None,
            }
            for n in numbers[offset : offset + limit]
        ],
    }


def groups(run: RunReader, *, step: int, offset: int = 0, limit: int = PAGE, sort: str = "spread") -> Json:
    """Return a page of a step's groups: those whose attempts differ most first, or by `mean` or `scenario`."""
    with run.store() as store:
        every = figures_of(store, run.memory).values()
    figures = [g for g in every if g.step == step]
    keys: dict[str, Any] = {
        "spread": lambda g: (-(g.spread or 0), g.scenario),
        "mean": lambda g: (g.mean if g.mean is not None else -1, g.scenario),
        "scenario": lambda g: (g.scenario,),
    }
    figures.sort(key=keys.get(sort, keys["spread"]))
    return {
        "total": len(figures),
        "offset": offset,
        "last": max((g.step for g in every), default=0),
        "items": [asdict(g) for g in figures[offset : offset + limit]],
    }


def stored_group(store: ReadStore, group_id: str) -> Group:
    """Return a group with its finished attempts and its judgement, if it has one.

    Raises:
        ConfigError: there is no such group.
    """
    members = [Trajectory.model_validate_json(body) for _, body in group_rows(store, group_id)]
    if not members:
        raise ConfigError(f"the run has no group {group_id!r}")
    return Group(
        group_id=group_id,
        scenario_id=members[0].scenario_id,
        trajectories=tuple(members),
        judgement=store.judgement(group_id),
    )


def group_rows(store: ReadStore, group_id: str) -> list[tuple[str, str]]:
    """Return slot and record of a group's attempts, by number."""
    # "0" follows "/": every slot of the group, and none of a scenario whose name only begins like it.
    found = store.rows(
        "SELECT slot, body FROM trajectories WHERE slot >= ? || '/' AND slot < ? || '0'", group_id, group_id
    )
    own = [(slot, body) for slot, body in found if slot.rpartition("/")[0] == group_id]
    return sorted(own, key=lambda row: _number(row[0]))


def _number(slot: str) -> int:
    last = slot.rpartition("/")[2]
    return int(last) if last.isdigit() else 0


def group(run: RunReader, group_id: str) -> Json:
    """Return one group: its attempts in the judge's order, what they share, and where each differs from the best.

    Raises:
        ConfigError: there is no such group.
    """
    settings = run.settings()
    with run.store() as store:
        numbers = {t: _number(slot) for slot, t in _slots(store, group_id)}
        found = stored_group(store, group_id)
        step = group_id.partition("/")[0]
        states = _states(store, settings, int(step), found) if step.isdigit() else {}
        neighbours = _neighbours(figures_of(store, run.memory), group_id)
    shown = [_attempt(t, numbers[t.rollout_id], found.judgement, states) for t in _in_order(found)]
    return {
        "group_id": group_id,
        "scenario": found.scenario_id,
        "step": int(step) if step.isdigit() else step,
        **side_by_side(shown),
        "judgement": _judgement(found.judgement, numbers),
        **neighbours,
    }


def side_by_side(attempts: Sequence[Json]) -> Json:
    """Fold away what all attempts share, show those that say the same once, and mark where each differs.

    Each attempt has `conversations`. The best is compared with the next one, all others with the best.
    """
    shared = shared_messages([a["conversations"] for a in attempts])
    first = next((a["conversations"][0] for a in attempts if a["conversations"]), None)
    columns: dict[tuple[Any, ...], Json] = {}
    for attempt in attempts:
        own = attempt.pop("conversations")
        key = (tuple(essence(m) for c in own for m in c["messages"]), attempt.get("error"))
        column = columns.setdefault(key, {"attempts": [], "conversations": own})
        column["attempts"].append(attempt)
    for column in columns.values():
        if column["conversations"]:
            head = column["conversations"][0]
            column["conversations"][0] = {**head, "messages": head["messages"][shared:]}
        column["conversations"] = [{**c, "tools": []} for c in column["conversations"]]
    plain = [[m for c in column["conversations"] for m in c["messages"]] for column in columns.values()]
    for index, column in enumerate(columns.values()):
        reference = plain[0] if index else plain[1] if len(plain) > 1 else None
        if reference is None:
            continue
        marked = iter(mark(plain[index], reference))
        column["conversations"] = [
            {**c, "messages": [next(marked) for _ in c["messages"]]} for c in column["conversations"]
        ]
    return {
        "shared": first["messages"][:shared] if first else [],
        "tools": first["tools"] if first else [],
        "columns": list(columns.values()),
    }


def _slots(store: ReadStore, group_id: str) -> list[tuple[str, str]]:
    return store.rows(
        "SELECT slot, rollout_id FROM trajectories WHERE slot >= ? || '/' AND slot < ? || '0'", group_id, group_id
    )


def _states(store: ReadStore, settings: Mapping[str, Any], step: int, found: Group) -> dict[str, Json]:
    scale = ((settings.get("config") or {}).get("advantage") or {}).get("scale")
    if scale != "batch":
        return training_states(store, settings, step, [found])
    ids = store.rows("SELECT group_id FROM judgements WHERE group_id >= ? AND group_id < ?", f"{step}/", f"{step}0")
    return training_states(store, settings, step, [stored_group(store, i) for (i,) in ids])


def _neighbours(figures: Mapping[str, Any], group_id: str) -> Json:
    """Return the ids of the groups before and after, in the order in which a step lists them."""
    own = figures.get(group_id)
    if own is None:
        return {"previous": None, "next": None}
    same = sorted((g for g in figures.values() if g.step == own.step), key=lambda g: (-(g.spread or 0), g.scenario))
    ids = [g.group_id for g in same]
    at = ids.index(group_id)
    return {"previous": ids[at - 1] if at else None, "next": ids[at + 1] if at + 1 < len(ids) else None}


def _in_order(found: Group) -> list[Trajectory]:
    """Return the attempts, the judge's best first; those without a score come last."""
    value = {s.rollout_id: s.value for s in found.judgement.scores} if found.judgement else {}
    return sorted(found.trajectories, key=lambda t: -value.get(t.rollout_id, -1e9))


def _attempt(t: Trajectory, number: int, judgement: Judgement | None, states: Mapping[str, Json]) -> Json:
    score = next((s for s in judgement.scores if s.rollout_id == t.rollout_id), None) if judgement else None
    return {
        **summary(t, number),
        "score": None if score is None else score.model_dump(mode="json"),
        "training": states.get(t.rollout_id),
        "conversations": conversations(t, limit=_TEXT),
    }


def summary(t: Trajectory, number: int) -> Json:
    """Return an attempt's figures."""
    answers = [m for c in t.calls for m in c.tokens.completions]
    return {
        "number": number,
        "rollout_id": t.rollout_id,
        "status": t.status,
        "error": None if t.error is None else str(t.error),
        "calls": len(t.calls),
        "tool_calls": len(t.tool_calls),
        "tokens": sum(len(m.token_ids) for m in answers),
        "latency_s": t.latency_s,
        "metrics": t.metrics,
        "output": t.output,
        "versions": sorted({v for m in answers for v in m.weight_versions}),
    }


def _judgement(judgement: Judgement | None, numbers: Mapping[str, int]) -> Json | None:
    if judgement is None:
        return None
    shown = judgement.model_dump(mode="json", exclude={"scores", "readings", "failures"})
    readings = [
        {
            "judge": r.judge,
            "shown": [
                {"number": numbers.get(i), "score": s, "explanation": r.explanations[k] if r.explanations else None}
                for k, (i, s) in enumerate(zip(r.rollouts, r.scores, strict=True))
            ],
        }
        for r in judgement.readings
    ]
    return {**shown, "error": None if judgement.error is None else str(judgement.error), "readings": readings}
