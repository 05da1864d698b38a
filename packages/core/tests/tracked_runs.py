"""Runs to track: a folder with what a training stores, and the trackers' processes at work on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from woodshed.training.run.store import RunStore
from woodshed.training.run.whole_file import write_whole
from woodshed.training.track.processes import tracking
from woodshed.types import StepReport

REWARDS = (0.25, 0.5, 0.75)
SETTINGS = {"policy": {"model": "m", "lora": {"rank": 8}}, "config": {"steps": 3}, "scenarios": {"ids": ["a", "b"]}}


def row(step: int, **changes: Any) -> dict[str, Any]:
    values = {"step": step, "reward": REWARDS[step % 3], "rollouts": 8, "judge_cost_usd": None, "trained": True}
    return {**values, "train/kl": 0.01 * step, "version": step + 1, **changes}


def take_step(store: RunStore, step: int, **changes: Any) -> None:
    report = StepReport(step_id=f"step-{step:05d}", version=step + 1, trained=True, metrics={})
    store.save_step(step, report, row(step, **changes))


def measure(store: RunStore, name: str, success: float) -> None:
    for figure, value in {"rollouts": 10, "interval": [success - 0.1, success + 0.1], "success": success}.items():
        store.save_fact(f"{figure}_{name}", value)


def begin(folder: Path, limits: dict[str, Any] | None = None) -> RunStore:
    store = RunStore(folder)
    store.claim(SETTINGS, limits)
    return store


def finish(store: RunStore) -> None:
    write_whole(store.folder / "summary.json", json.dumps({"success_after": 0.9, "engine": "vLLM", "warnings": []}))
    store.save_fact("finished", True)


def whole_run(folder: Path) -> RunStore:
    """Return a finished run of three steps, measured before, between and after, with one warning."""
    store = begin(folder)
    measure(store, "before", 0.3)
    take_step(store, 0)
    take_step(store, 1)
    measure(store, "after_step_2", 0.6)
    take_step(store, 2)
    measure(store, "after", 0.9)
    store.add_warnings(["the judge is slow"])
    finish(store)
    return store


def send(names: Sequence[str], store: RunStore, **limits: float) -> list[str]:
    """Send a run as a training does at its end, and return the lines that were shown."""
    lines: list[str] = []

    async def sent() -> None:
        async with tracking(names, store, lines.append, **limits):
            pass

    asyncio.run(sent())
    return lines
