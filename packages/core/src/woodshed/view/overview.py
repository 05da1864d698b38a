"""A run at a glance: success with intervals, scores, what was trained, what it took, and what it warned of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from woodshed.training.report.evaluations import best, evaluations
from woodshed.training.report.metrics import DRIFT, cost_usd
from woodshed.training.run.read_store import ReadStore
from woodshed.view.group_figures import figures_of, spread_by_step
from woodshed.view.reader import RunReader

SERIES: Mapping[str, str] = {
    "reward": "reward",
    "loss": "train/loss",
    "drift": DRIFT,
    "entropy": "train/entropy",
    "ratio_max": "train/ratio_max",
    "grad_norm": "train/grad_norm",
    "staleness": "train/staleness_mean",
    "tokens_per_s": "tokens_per_s",
    "train_tokens_per_s": "train/train_tokens_per_s",
    "judge_cost_usd": "judge_cost_usd",
    "masked": "masked",
    "flat_groups": "flat_groups",
    "stale_groups": "stale_groups",
    "unjudged_groups": "unjudged_groups",
    "rollout_s": "rollout_s",
    "wait_s": "wait_s",
    "train_s": "train_s",
    "nll": "nll",  # of supervised steps (`woodshed sft`)
}
"""Name in the answer → key of a history row."""
_SUMS = (
    "rollouts",
    "masked",
    "flat_groups",
    "stale_groups",
    "unjudged_groups",
    "judge_requests",
    "judge_tokens",
    "sampled_tokens",
)


def overview(run: RunReader) -> dict[str, Any]:
    """Return a run's figures, its curves by step and its evaluations as plain JSON."""
    settings = run.settings()
    with run.store() as store:
        history = store.history()
        spread = spread_by_step(figures_of(store, run.memory))
        points = evaluations(store, history)
        top = best(points)
        return {
            **heading(run, store, settings, history),
            "steps": [row.get("step", position) + 1 for position, row in enumerate(history)],
            "series": {
                **{name: _column(history, key) for name, key in SERIES.items()},
                "spread": [spread.get(row.get("step", -1)) for row in history],
            },
            "trained": [bool(row.get("trained", True)) for row in history],
            "evaluations": [
                {**p.model_dump(mode="json"), "is_best": top is not None and p.step == top.step} for p in points
            ],
            "totals": _totals(history),
            "warnings": store.fact("warnings") or [],
        }


def heading(
    run: RunReader, store: ReadStore, settings: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what a run is and how far it is."""
    process = run.process()
    asked = (settings.get("limits") or {}).get("steps")
    totals = store.fact("totals") or {}
    return {
        "name": run.name,
        "folder": str(run.folder),
        "process": None if process is None else {"pid": process.pid, "since_s": process.since_s},
        "finished": bool(store.fact("finished")),
        "steps_done": len(history),
        "steps_asked": asked,
        "model": (settings.get("policy") or {}).get("model"),
        "reward": settings.get("reward"),
        "has_judge": bool(store.value("SELECT 1 FROM judgements LIMIT 1")),
        "seconds": totals.get("seconds"),
        "peak_rss_mb": totals.get("peak_rss_mb"),
        "trajectories": store.value("SELECT count(*) FROM trajectories"),
    }


def signature(run: RunReader) -> list[Any]:
    """Return a value that changes whenever there is something new to see."""
    with run.store() as store:
        return [
            store.value("SELECT count(*) FROM trajectories"),
            store.value("SELECT coalesce(max(rowid), 0) FROM judgements"),
            store.value("SELECT coalesce(max(rowid), 0) FROM steps"),
            store.value("SELECT count(*) FROM facts WHERE name GLOB 'success_*' OR name = 'finished'"),
            run.process() is not None,
        ]


def _column(history: Iterable[Mapping[str, Any]], key: str) -> list[float | None] | None:
    """Return one value per step, or None for a figure that no step has."""
    values = [row.get(key) for row in history]
    finite = [float(v) if isinstance(v, int | float) and math.isfinite(v) else None for v in values]
    return None if all(v is None for v in finite) else finite


def _totals(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    costs = [row["judge_cost_usd"] for row in history if "judge_cost_usd" in row]
    return {
        **{name: sum(row.get(name) or 0 for row in history) for name in _SUMS},
        "judge_cost_usd": cost_usd(costs) if costs else None,
        "trained_steps": sum(bool(row.get("trained", True)) for row in history),
    }
