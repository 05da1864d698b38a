"""Promises of what travels between an engine and a trainer on another machine: the policy's folder is the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tiny_trainer import POLICY, SESSIONS, numbered

from woodshed.engine.client.scratch import scratch_folder
from woodshed.engine.trainer.checkpoint import Checkpoints
from woodshed.engine.trainer.policy_run import PolicyRun
from woodshed.engine.trainer.travel import Away, Opening, check_base, keep, opening
from woodshed.engine.trainer.worker_protocol import ANSWERS, Ready, Refused, Start, Step, Stepped
from woodshed.errors import TrainError
from woodshed.types import OpenPolicy, StepRequest


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder; positions without what differs from run to run, the seconds."""
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return {name: _without_seconds(content) if name.endswith("position.json") else content
            for name, content in found.items() if not name.endswith(".gz")}  # fmt: skip


def _without_seconds(content: bytes) -> bytes:
    position = json.loads(content)
    for report in position["reports"]:
        for name in [n for n in report["metrics"] if n.endswith(("_seconds", "_per_s", "_mb"))]:
            del report["metrics"][name]
    return json.dumps(position).encode()


def steps(count: int, **changes: object) -> list[StepRequest]:
    """Return steps of which the second trains nothing."""
    asked = [numbered(k).model_copy(update=changes) for k in range(1, count + 1)]
    nothing = tuple(rollout.model_copy(update={"advantage": 0.0}) for rollout in asked[1].rollouts)
    return [asked[0], asked[1].model_copy(update={"rollouts": nothing}), *asked[2:]]


def start_at(home: Path, model_path: str, policy: OpenPolicy = POLICY) -> Start:
    """Return the first question."""
    return Start(model_path=model_path, home=str(home), policy=policy, parent_pid=0)


def train_away(start: Start, scratch: Path, asked: list[StepRequest]) -> list[Ready | Stepped | Refused]:
    """Take steps in a scratch folder, keep what is written at home after each, and return the answers."""
    away = Away(scratch, opening(start))
    run = PolicyRun(away.start)
    answers = [ANSWERS.validate_json(away.at_home(Ready(state=run.state)))]
    if (written := away.written()) is not None:
        keep(written, Path(start.home), None)
    for request in asked:
        step = Step(request=request, sessions=SESSIONS)
        answers.append(ANSWERS.validate_json(away.at_home(Stepped(report=run.step(step)))))
        if (written := away.written()) is not None:
            keep(written, Path(start.home), step)
    return answers


@pytest.mark.parametrize("asked", [{}, {"keep_checkpoints": 1, "keep_version": 1}])
def test_a_policy_trained_elsewhere_leaves_the_files_of_one_trained_at_home(
    model_path: str, tmp_path: Path, asked: dict[str, int]
) -> None:
    at_home, away = start_at(tmp_path / "home", model_path), start_at(tmp_path / "away", model_path)
    run = PolicyRun(at_home)
    for request in steps(5, **asked):
        run.step(Step(request=request, sessions=SESSIONS))
    first, second = tmp_path / "first", tmp_path / "second"
    answers = train_away(away, first, steps(5, **asked)[:3])
    shutil.rmtree(first)
    ready, *_ = train_away(away, second, steps(5, **asked)[3:])

    assert files(tmp_path / "away") == files(tmp_path / "home")
    for home in ("away", "home"):
        assert len(list((tmp_path / home / "log_ratios").iterdir())) == 4
    assert isinstance(ready, Ready) and ready.state.version == 2 and ready.state.steps == ("s1", "s2", "s3")
    assert isinstance(answers[0], Ready) and answers[0].state.checkpoints == str(tmp_path / "away" / "checkpoints")
    assert "woodshed-trainer" not in (tmp_path / "away/checkpoints/00004/position.json").read_text()


def test_an_initial_adapter_travels_and_is_named_as_at_home(model_path: str, tmp_path: Path) -> None:
    PolicyRun(start_at(tmp_path / "made", model_path)).step(Step(request=numbered(1), sessions=SESSIONS))
    adapter = str(Checkpoints(tmp_path / "made").path(1) / "adapter")
    policy = POLICY.model_copy(update={"adapter": adapter})
    train_away(start_at(tmp_path / "away", model_path, policy), tmp_path / "scratch", [numbered(2)])
    missing = start_at(tmp_path / "none", model_path, POLICY.model_copy(update={"adapter": "no/such adapter"}))
    away = Away(tmp_path / "empty", opening(missing))

    position = Checkpoints(tmp_path / "away").position(1)
    assert position is not None and position.policy.adapter == adapter
    assert Checkpoints(tmp_path / "away").kept() == (1, 2)
    with pytest.raises(TrainError) as refused:
        PolicyRun(away.start)
    said = ANSWERS.validate_json(away.at_home(Refused(message=str(refused.value))))
    assert isinstance(said, Refused) and "there is no LoRA to start from in 'no/such adapter'" in said.message


def test_a_damaged_checkpoint_is_refused_where_it_lies(model_path: str, tmp_path: Path) -> None:
    PolicyRun(start_at(tmp_path, model_path))
    file = Checkpoints(tmp_path).path(0) / "adapter" / "adapter_model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))

    with pytest.raises(TrainError, match="does not hold the bytes that were written"):
        opening(start_at(tmp_path, model_path))


def test_a_node_without_the_base_model_or_with_another_is_named(model_path: str, tmp_path: Path) -> None:
    copied, other = tmp_path / "copied", tmp_path / "other"
    shutil.copytree(model_path, copied)
    shutil.copytree(model_path, other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    found = opening(start_at(tmp_path, model_path))

    def at(path: str | Path) -> Opening:
        return Opening(start=start_at(tmp_path, str(path)), base=found.base)

    check_base(at(copied), "10.0.0.7")
    check_base(opening(start_at(tmp_path, "owner/model-of-the-hub")), "10.0.0.7")
    with pytest.raises(TrainError, match=r"node 10\.0\.0\.7 .*no model in '/no/such/model'.*under the same path"):
        check_base(at("/no/such/model"), "10.0.0.7")
    with pytest.raises(TrainError, match=rf"node 10\.0\.0\.7 .*another model in .*expected {found.base}"):
        check_base(at(other), "10.0.0.7")


def test_the_scratch_folder_of_a_killed_trainer_is_removed_by_the_next_and_that_of_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import time\nfrom woodshed.engine.client.scratch import scratch_folder\n"
        "with scratch_folder('woodshed-trainer-') as folder:\n    print(folder, flush=True)\n    time.sleep(600)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with scratch_folder("woodshed-trainer-") as ours:
            living = {ours, theirs} == folders(tmp_path)
        other.send_signal(signal.SIGKILL)
        other.wait()
    left = theirs.is_dir()
    with scratch_folder("woodshed-trainer-") as ours:
        alone = folders(tmp_path) == {ours}

    assert living and left and alone
    assert not list(tmp_path.iterdir())


def test_a_scratch_folder_whose_removal_was_cut_short_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, shutil, signal\nfrom woodshed.engine.client.scratch import scratch_folder\n"
        "def cut_short(folder, **_):\n"
        "    for file in folder.iterdir():\n        if file.name != 'kept':\n            file.unlink()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "shutil.rmtree = cut_short\n"
        "with scratch_folder('woodshed-trainer-') as folder:\n    (folder / 'kept').touch()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "TMPDIR": str(tmp_path)})
    (left,) = folders(tmp_path)
    with scratch_folder("woodshed-trainer-"):
        pass

    assert not left.exists() and not list(tmp_path.iterdir())


def folders(place: Path) -> set[Path]:
    """Return the folders in `place`, without the locks beside them."""
    return {found for found in place.iterdir() if found.is_dir()}


def test_what_travels_brings_no_model_library_which_must_be_imported_after_unsloth() -> None:
    code = "import sys, woodshed.engine.trainer.travel; print(sorted({'peft', 'transformers'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
