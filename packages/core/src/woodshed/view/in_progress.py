"""What a run does now: rollouts that wait or run, groups that wait for their judge, the step, the replicas."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import closing
from typing import Any

from woodshed.training.run.read_store import ReadStore
from woodshed.training.run.totals import REPLICAS
from woodshed.view.conversation import Json
from woodshed.view.reader import Process, RunReader

_MOST = 200
"""Rollouts that are listed one by one."""


def in_progress(run: RunReader) -> Json:
    """Return what is under way, since when (Unix seconds), and what it waits for; nothing where no process trains."""
    process = run.process()
    with run.store() as store:
        finished = bool(store.fact("finished"))
        if process is None:
            return {"process": None, "finished": finished, "now_s": time.time(), "phase": _ended(finished), "items": []}
        waiting, running = _rollouts(run, store, process)
        judging = _judging(run, store)
        done = len(store.history())
        replicas = store.fact(REPLICAS) or []
    return {
        "process": {"pid": process.pid, "since_s": process.since_s},
        "finished": finished,
        "now_s": time.time(),
        "phase": _phase(waiting, running, judging, done),
        "counts": {"running": len(running), "waiting": len(waiting), "judging": len(judging)},
        "replicas": replicas,
        "items": [*running, *judging, *waiting][:_MOST],
    }


def _ended(finished: bool) -> str:
    return "finished" if finished else "no process is at work on this run; start it again to resume it"


def _phase(waiting: list[Json], running: list[Json], judging: list[Json], done: int) -> str:
    if running or waiting:
        return "rollouts"
    if judging:
        return "the judge"
    return f"step {done + 1}: the trainer, or what comes before the first rollout (engine, policy, checks)"


def _rollouts(run: RunReader, store: ReadStore, process: Process) -> tuple[list[Json], list[Json]]:
    """Return the rollouts that wait for a permit, and those that run; the earliest first."""
    if "unfinished" not in store.tables:  # a run of an older woodshed
        return [], []
    # What an earlier process left behind is not under way.
    rows = store.rows(
        "SELECT slot, rollout_id, waiting_s, started_s FROM unfinished WHERE waiting_s >= ? "
        "ORDER BY started_s, waiting_s",
        process.since_s - 1,
    )
    calls = _calls(run, [rollout_id for _, rollout_id, _, started_s in rows if started_s is not None])
    waiting: list[Json] = []
    running: list[Json] = []
    for slot, rollout_id, waiting_s, started_s in rows:
        if started_s is None:
            reason = "a free place (max_concurrency)"
            waiting.append({"slot": slot, "state": "waiting", "since_s": waiting_s, "waits_for": reason})
            continue
        answered, last_s = calls.get(rollout_id, (0, None))
        running.append(
            {
                "slot": slot,
                "state": "running",
                "since_s": started_s,
                "calls": answered,
                "last_call_s": last_s,
                "waits_for": "its next model call, a tool, or its own code" if answered else "its first model call",
            }
        )
    return waiting, running


def _calls(run: RunReader, rollouts: list[str]) -> dict[str, tuple[int, float | None]]:
    """Return rollout id → how many of its model calls are answered, and when the last was; by the engine's store."""
    file = run.folder / "engine" / "engine.sqlite"
    if not file.is_file() or not rollouts:
        return {}
    marks = ",".join("?" * len(rollouts[:_MOST]))
    query = (
        "SELECT rollout_id, count(*), max(started_s + json_extract(record, '$.latency_s')) FROM calls "
        f"WHERE rollout_id IN ({marks}) GROUP BY rollout_id"
    )
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as db:
            return {i: (count, last_s) for i, count, last_s in db.execute(query, rollouts[:_MOST])}
    except sqlite3.Error:
        return {}  # it is the engine's file; the run's own says enough


def _judging(run: RunReader, store: ReadStore) -> list[Json]:
    """Return the groups whose attempts have all ended and that have no judgement yet."""
    size = (run.settings().get("config") or {}).get("group_size")
    done = len(store.history())
    ended: Counter[str] = Counter()
    for step in range(done, done + 3):  # no more steps are sampled ahead than max_staleness, which is small
        for (slot,) in store.rows("SELECT slot FROM trajectories WHERE slot >= ? AND slot < ?", f"{step}/", f"{step}0"):
            ended[slot.rpartition("/")[0]] += 1
    return [
        {"slot": group, "state": "judging", "since_s": _ended_s(store, group), "waits_for": "the judge", "calls": None}
        for group, count in ended.items()
        if count == size and not _is_judged(store, group)
    ]


def _ended_s(store: ReadStore, group: str) -> Any:
    """Return when the last attempt of a group ended."""
    return store.value(
        "SELECT max(json_extract(body, '$.started_s') + json_extract(body, '$.latency_s')) FROM trajectories "
        "WHERE slot >= ? || '/' AND slot < ? || '0'",
        group, group,
    )  # fmt: skip


def _is_judged(store: ReadStore, group: str) -> Any:
    return store.value("SELECT 1 FROM judgements WHERE group_id = ?", group)
