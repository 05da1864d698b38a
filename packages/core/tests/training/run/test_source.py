"""Two functions of one name never share a folder, and each finds its own again."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

import woodshed
from woodshed.training.run.folder import open_folder
from woodshed.training.run.source import Source
from woodshed.training.run.store import RunStore

_AGENT = """
import functools, woodshed
async def answer(scenario): ...
class Agent:
    async def __call__(self, scenario): ...
    async def answer(self, scenario): ...
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.py", "b.py", "sub/a.py", "sub/b.py"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(_AGENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _source(file: Path, name: str = "answer") -> Source:
    return Source.of(woodshed.rollout(runpy.run_path(str(file))[name]).function)


def _started(source: Source, **changes: Any) -> Path:
    folder = open_folder(None, name="answer", fresh=False, source=source)
    store = RunStore(folder)
    store.claim({"steps": 3, **changes}, rollout=source.described(folder.parent))
    store.close()
    return folder


def test_each_file_has_its_own_folder_and_finds_it_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [project / name for name in ("a.py", "b.py", "sub/a.py", "sub/b.py")]
    first = [_started(_source(file), of=str(file)) for file in files]
    said = capsys.readouterr().out
    again = [_started(_source(file), of=str(file)) for file in reversed(files)]

    assert len(set(first)) == 4 and again == first[::-1]
    assert first[:2] == [Path("runs/answer"), Path("runs/answer-b")]
    assert "runs/answer holds the run of another function, 'answer' of a.py; this run is in runs/answer-b" in said
    assert "--run-dir runs/answer" in said


def test_a_project_that_was_moved_finds_its_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _started(_source(project / "a.py"))
    project.rename(project.with_name("moved"))
    monkeypatch.chdir(project.with_name("moved"))

    assert _started(_source(Path("a.py").resolve())) == Path("runs/answer")


def test_a_run_without_a_recorded_function_is_resumed_and_then_has_one(project: Path) -> None:
    store = RunStore(Path("runs/answer"))
    store.claim({"steps": 3})
    store.close()

    assert _started(_source(project / "a.py")) == Path("runs/answer")
    assert json.loads(Path("runs/answer/config.json").read_text())["rollout"] == {"name": "answer", "file": "../a.py"}
    assert _started(_source(project / "b.py")) == Path("runs/answer-b")


def test_a_folder_that_is_named_is_the_one(project: Path) -> None:
    _started(_source(project / "a.py"))

    assert open_folder("runs/answer", name="answer", fresh=False, source=_source(project / "b.py")) == Path(
        "runs/answer"
    )


@pytest.mark.parametrize("of", ["method", "object", "partial", "notebook", "builtin"])
def test_anything_that_can_be_called_has_a_source(project: Path, of: str) -> None:
    agent = runpy.run_path(str(project / "a.py"))
    cell: dict[str, Any] = {}
    exec(compile("def answer(s): ...", "/gone/ipykernel_7/123.py", "exec"), cell)  # what a notebook's kernel does
    function = {
        "method": agent["Agent"]().answer,
        "object": agent["Agent"](),
        "partial": agent["functools"].partial(agent["answer"]),
        "notebook": cell["answer"],
        "builtin": len,
    }[of]

    source = Source.of(function)

    assert source.file == (project / "a.py" if of in {"method", "object", "partial"} else None)
    assert source.name == {"method": "Agent.answer", "object": "Agent", "builtin": "len"}.get(of, "answer")
    assert _started(source) == _started(source)
