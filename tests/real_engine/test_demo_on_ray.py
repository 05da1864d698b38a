"""The demo on a Ray cluster of this machine: two replicas and two trainers, and nothing fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


def test_demo_trains_with_two_replicas_and_two_trainers_on_ray(needs_engine: None, tmp_path: Path) -> None:
    options = [
        "--ray",
        "local",
        "--replicas",
        "2",
        "--trainers",
        "2",
        "--steps",
        "2",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    command = [str(Path(sys.executable).with_name("woodshed")), "demo", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=840, check=False)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    figures = json.loads((tmp_path / "run" / "summary.json").read_text())
    nothing = ("failed_calls", "masked_rollouts", "masked_before", "masked_after", "engine_restarts", "stale_groups")
    assert {name: figures[name] for name in nothing} == dict.fromkeys(nothing, 0)
    assert figures["trained_steps"] == figures["lora_swaps"] == 2
    assert figures["success_before"] is not None and figures["success_after"] is not None
    (log,) = (tmp_path / "run").rglob("trainer.log")
    assert set(re.findall(r"world_rank=(\d)", log.read_text())) == {"0", "1"}
