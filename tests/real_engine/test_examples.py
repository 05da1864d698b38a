"""The example of each framework trains for a step on the real engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from woodshed.training.report.summary import Summary

ROOT = Path(__file__).parents[2]
EXAMPLES = ["03_train_on_cpu.py", "05_train_a_crew.py", "06_train_an_adk_agent.py"]


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_trains(needs_engine: None, example: str, tmp_path: Path) -> None:
    few = ["--steps", "1", "--group-size", "4", "--scenarios-per-step", "3", "--run-dir", str(tmp_path / "run")]
    quiet = {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_DISABLE_TRACKING": "true", "OTEL_SDK_DISABLED": "true"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("woodshed")), "train", str(ROOT / "examples" / example), *few],
        env=os.environ | quiet | {"CREWAI_STORAGE_DIR": str(tmp_path / "crewai")},
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    summary = Summary.model_validate_json((tmp_path / "run" / "summary.json").read_text())
    assert (summary.steps, summary.failed_calls, summary.unjudged_groups) == (1, 0, 0)
    assert summary.success_before is not None and summary.success_before > 0.1
