"""An error in a user's file shows the lines of that file, and none of ours, typer's or Python's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = "import json\nimport woodshed\n"


def train(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = folder / "practise.py"
    file.write_text(HEAD + text)
    return subprocess.run(
        [sys.executable, "-m", "woodshed", "train", str(file)],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "COLUMNS": "300"}, cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("raise RuntimeError('no key')\n", ['practise.py", line 3', "RuntimeError: no key"]),
        (
            "def load():\n    return json.loads('{')\nload()\n",
            ["line 4, in load", "json.loads('{')", "JSONDecodeError"],
        ),
        ("import helper\n", ['helper.py", line 1', "ZeroDivisionError"]),
        ("def broken(:\n", ['practise.py", line 3', "def broken(:", "SyntaxError"]),
        ("try:\n    {}['x']\nexcept KeyError as e:\n    raise ValueError('bad') from e\n", ["KeyError: 'x'", "bad"]),
        ("woodshed.TrainConfig(steps=0)\n", ["ConfigError: TrainConfig.steps", "found 0", "practise.py:3 in <module>"]),
        ("import not_there_at_all\n", ['practise.py", line 3', "ModuleNotFoundError"]),
        ("raise ExceptionGroup('two', [ValueError('a')])\n", ['practise.py", line 3', "ValueError: a"]),
    ],
)
def test_an_error_at_import_shows_the_users_frame_alone(tmp_path: Path, text: str, shown: list[str]) -> None:
    (tmp_path / "helper.py").write_text("1 / 0\n")

    done = train(tmp_path, text)

    assert done.returncode == 1
    assert [part for part in shown if part not in done.stderr] == []
    assert [part for part in ("typer", "importlib", "cli/", "woodshed/__main__", "json/") if part in done.stderr] == []
    assert len(done.stderr.splitlines()) < 16
