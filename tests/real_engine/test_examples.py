"""The example of each framework trains for a step on the real engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from woodshed.engine import EngineClient
from woodshed.training.report.summary import Summary

ROOT = Path(__file__).parents[2]
ON_A_SHARED_ENGINE = """
import os, runpy
from dataclasses import replace
import woodshed

training = runpy.run_path(os.environ["EXAMPLE"])["training"]
examination = training.evaluation
training = replace(
    training,
    engine=woodshed.Engine.connect(os.environ["ENGINE_URL"], api_key=os.environ["ENGINE_KEY"]),
    evaluation=replace(examination, scenarios=examination.scenarios[::4]),
)
"""
"""A training of one's own around an example: its engine runs already, and its examination is shorter."""

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_example_trains_as_it_is(needs_engine: None, tmp_path: Path) -> None:
    check(train(ROOT / "examples/03_train_on_cpu.py", tmp_path))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("example", ["05_train_a_crew.py", "06_train_an_adk_agent.py"])
async def test_an_example_trains_on_an_engine_that_runs(engine: EngineClient, example: str, tmp_path: Path) -> None:
    file = tmp_path / "around.py"
    file.write_text(ON_A_SHARED_ENGINE)

    where = {
        "EXAMPLE": str(ROOT / "examples" / example),
        "ENGINE_URL": engine.url,
        "ENGINE_KEY": engine.api_key or "",
    }
    check(train(file, tmp_path, **where))


def train(file: Path, folder: Path, **env: str) -> Summary:
    few = ["--steps", "1", "--group-size", "4", "--scenarios-per-step", "3", "--run-dir", str(folder / "run")]
    quiet = {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_DISABLE_TRACKING": "true", "OTEL_SDK_DISABLED": "true"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("woodshed")), "train", str(file), *few],
        env=os.environ | quiet | env | {"CREWAI_STORAGE_DIR": str(folder / "crewai")},
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return Summary.model_validate_json((folder / "run" / "summary.json").read_text())


def check(summary: Summary) -> None:
    assert (summary.steps, summary.failed_calls, summary.unjudged_groups) == (1, 0, 0)
    assert summary.success_before is not None and summary.success_before > 0
