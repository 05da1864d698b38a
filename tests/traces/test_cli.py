"""The two commands as a person types them: a run goes out, comes in, and both say what they did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from woodshed.testing import ScriptedEngine, say, scripted_rollout
from woodshed.traces import scenarios
from woodshed.training.run.store import RunStore
from woodshed.training.sft.conversation_file import examples_of_file


def woodshed(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "woodshed", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, cwd=cwd, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one rollout of a plain OpenAI client."""
    import httpx

    store = RunStore(tmp_path / "run")
    with ScriptedEngine(lambda request: say("Seven.")) as engine:
        with scripted_rollout(engine) as rollout:
            httpx.post(
                f"{rollout.base_url}/chat/completions",
                json={"model": "policy", "messages": [{"role": "user", "content": "How many lamps?"}]},
                headers={"authorization": f"Bearer {rollout.secret}"}, trust_env=False,
            ).raise_for_status()  # fmt: skip
        store.save_trajectory("0/s/0", engine.trajectory(rollout))
    store.close()
    return tmp_path / "run"


@pytest.mark.parametrize("format", ["atif", "openinference", "messages"])
def test_a_run_goes_out_and_comes_in(run: Path, tmp_path: Path, format: str) -> None:
    out = woodshed("export-traces", run, "--to", "out.jsonl", "--format", format, cwd=tmp_path)
    back = woodshed("from-traces", "out.jsonl", cwd=tmp_path)

    assert (out.returncode, out.stderr, back.returncode, back.stderr) == (0, "", 0, "")
    assert "of 1 rollouts: out.jsonl" in out.stdout
    assert "read 1 traces" in back.stdout
    assert "1 scenarios: out/scenarios.jsonl" in back.stdout
    assert "1 conversations: out/talks.jsonl" in back.stdout
    (scenario,) = scenarios(tmp_path / "out" / "scenarios.jsonl")
    assert scenario.task == "How many lamps?"
    (example,) = examples_of_file(tmp_path / "out" / "talks.jsonl")
    assert [m["content"] for m in example.messages] == ["How many lamps?", "Seven."]


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi."}], "mood": 1}\nnope\n')
    done = woodshed("from-traces", "in.jsonl", "--to", "out", cwd=tmp_path)

    assert done.returncode == 0
    assert done.stdout.splitlines()[1:3] == ["1 scenarios: out/scenarios.jsonl", "no conversation for SFT"]
    assert "left out line 2: not JSON" in done.stdout
    assert "unknown field 'mood', ignored: line 1" in done.stdout
    assert not (tmp_path / "out" / "talks.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export-traces", "gone", "--to", "x.jsonl", "--format", "atif"], "'gone' holds no run"),
        (["from-traces", "gone.jsonl"], "'gone.jsonl' is not there"),
        (["export-traces", "gone", "--to", "x.jsonl", "--format", "csv"], "'csv' is not one of"),
    ],
)
def test_what_cannot_be_done_is_one_line_without_a_traceback(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = woodshed(*arguments, cwd=tmp_path)

    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["export-traces", "from-traces"])
def test_help_shows_a_line_to_copy(tmp_path: Path, command: str) -> None:
    shown = woodshed(command, "--help", cwd=tmp_path).stdout

    assert f"woodshed {command} " in shown
