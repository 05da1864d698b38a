"""Every command that trains takes `--track`, and refuses the name of no tracker before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from sft_engine import conversations

import woodshed
from woodshed.cli.app import app

SCRIPT = """
import woodshed

training = woodshed.Training(
    rollout=lambda scenario: None, scenarios=["a"], policy=woodshed.Policy("m"),
    reward=woodshed.FunctionReward(lambda trajectory: 0.0),
)
"""


@pytest.mark.parametrize(
    "command",
    [
        ["train", "{file}"],
        ["sft", "{talks}", "--model", "m", "--run-dir", "{folder}/run"],
        ["mcp", "python server.py", "--policy", "m", "--judge", "j", "--run-dir", "{folder}/run"],
    ],
    ids=lambda command: command[0],
)
def test_a_name_that_is_no_trackers_is_refused(command: list[str], tmp_path: Path) -> None:
    (file := tmp_path / "practise.py").write_text(SCRIPT)
    words = [w.format(file=file, talks=conversations(tmp_path), folder=tmp_path) for w in command]

    with pytest.raises(woodshed.ConfigError, match="track has 'tensorbord', which is no tracker"):
        app([*words, "--track", "wandb,tensorbord"], standalone_mode=False)
    assert not (tmp_path / "run").exists()
