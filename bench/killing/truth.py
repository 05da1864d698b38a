"""What is true of a run at its end, by the engine's own checkpoint and the run's store."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from killing.child import GROUPS, MEMBERS
from killing.life import Life
from woodshed.engine.client.provision import engine_python

_UPDATES = """
import sys, torch
state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)["optimizer"]["state"]
print(sorted({int(s["step"]) for s in state.values()}))
"""


def steps_trained_once(life: Life) -> dict[int, bool]:
    """Return step → whether each of its rollouts was trained in it exactly once, and in no other step.

    Groups whose scores are all equal teach nothing, so their rollouts are in no update.
    """
    reports = json.loads((newest_checkpoint(life) / "position.json").read_text())["reports"]
    by_step: dict[int, list[Any]] = {}
    for report in reports:
        by_step.setdefault(int(report["step_id"].removeprefix("step-")), []).append(report)
    with closing(sqlite3.connect(life.folder / "run.sqlite")) as db:
        slots = dict(db.execute("SELECT slot, rollout_id FROM trajectories"))
        verdicts = {group: json.loads(body) for group, body in db.execute("SELECT group_id, body FROM judgements")}
        stored = {p: json.loads(body) for p, body in db.execute("SELECT position, body FROM steps")}
    members = {step: [r for slot, r in slots.items() if slot.startswith(f"{step}/")] for step in range(life.steps)}
    taught = {
        step: sum(
            len(verdict["scores"])
            for group, verdict in verdicts.items()
            if group.startswith(f"{step}/") and len({score["value"] for score in verdict["scores"]}) > 1
        )
        for step in range(life.steps)
    }
    everywhere = [rollout for found in members.values() for rollout in found]
    assert len(set(everywhere)) == len(everywhere), "a rollout is in two steps"
    return {
        step: (
            len(by_step.get(step, ())) == 1
            and _is_report(by_step[step][0], stored[step])
            and by_step[step][0]["trained"] == (taught[step] > 0)
            and by_step[step][0]["metrics"]["rollouts"] == taught[step]
            and len(members[step]) == GROUPS * MEMBERS
        )
        for step in range(life.steps)
    }


def _is_report(of_trainer: dict[str, Any], stored: dict[str, Any]) -> bool:
    """Whether the run has stored what the trainer reported; with several replicas the engine adds how the swap went."""
    metrics = {name: stored["metrics"].get(name) for name in of_trainer["metrics"]}
    return {**stored, "metrics": metrics} == of_trainer


def optimizer_updates(life: Life) -> list[int]:
    """Return how many updates the optimizer itself has counted, for all its tensors."""
    file = newest_checkpoint(life) / "state.pt"
    done = subprocess.run([str(engine_python()), "-c", _UPDATES, str(file)], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def newest_checkpoint(life: Life) -> Path:
    """Return the folder of the newest checkpoint."""
    return life.checkpoints() / f"{life.versions()[-1]:05d}"
