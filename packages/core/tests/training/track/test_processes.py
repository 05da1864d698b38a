"""A tracker runs beside the training: whatever it does, the training ends as it would have, and says what was left."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from tracked_runs import begin, send, whole_run

import woodshed
from woodshed.errors import ConfigError
from woodshed.testing.waiting import eventually
from woodshed.training.track.names import KINDS, check_installed, tracker_names
from woodshed.training.track.position import read_position
from woodshed.training.track.processes import behind, tracking


def is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


ABSENT = [name for name, kind in KINDS.items() if not any(map(is_installed, kind.packages))]
needs_absent = pytest.mark.skipif(not ABSENT, reason="every tracker is installed here, and these need one that is not")


@pytest.mark.parametrize("track", ["wandb, tensorboard", ["wandb", "tensorboard", "wandb"], ("wandb", "tensorboard")])
def test_trackers_are_named_in_a_list_or_with_commas(track: str | list[str]) -> None:
    assert tracker_names(track) == ("wandb", "tensorboard")


@pytest.mark.parametrize("track", ["wandbb", ["mlflow", "wandbb"], [3], "wandb wandb"])
def test_an_unknown_tracker_is_refused_by_name(track: str | list[str]) -> None:
    with pytest.raises(ConfigError, match="no tracker that woodshed knows; expected any of 'wandb', 'mlflow'"):
        woodshed.Training(
            rollout=print, scenarios=["a"], policy=woodshed.Policy("m"), reward=woodshed.FunctionReward(len),
            track=track,
        )  # fmt: skip


@needs_absent
def test_a_tracker_that_is_not_installed_stops_the_run_before_anything_is_written(tmp_path: Path) -> None:
    file = tmp_path / "t.py"
    file.write_text(
        "import woodshed\ntraining = woodshed.Training(rollout=woodshed.rollout(lambda s: None), scenarios=['a'],\n"
        "    policy=woodshed.Policy('m/m'), reward=woodshed.FunctionReward(lambda t: 1.0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "woodshed", "train", str(file), "--run-dir", str(tmp_path / "r"), "--track", ABSENT[0]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert f"pip install 'woodshed[{ABSENT[0]}]'" in done.stderr
    assert not (tmp_path / "r").exists()


def test_a_tracker_that_is_too_old_is_refused_with_both_versions(tmp_path: Path) -> None:
    (tmp_path / "wandb-0.1.dist-info").mkdir()
    (tmp_path / "wandb-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: wandb\nVersion: 0.1\n")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(ConfigError, match=r"'wandb' 0\.1 is installed; expected >=0\.19"):
            check_installed(["wandb"])
    finally:
        sys.path.remove(str(tmp_path))


@needs_absent
def test_a_tracker_that_cannot_work_is_warned_of_once_and_everything_stays_to_be_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = whole_run(tmp_path)
    with caplog.at_level(logging.WARNING, "woodshed.training"):
        lines = send([ABSENT[0]], store)

    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "ModuleNotFoundError" in warning and "The run goes on" in warning and "run the same command again" in warning
    assert store.fact("warnings")[1:] == [warning]
    assert f"{ABSENT[0]} has 0 of 3 steps: ModuleNotFoundError" in lines[-1]
    assert behind([ABSENT[0]], store) == [ABSENT[0]]
    assert (tmp_path / "tracking" / f"{ABSENT[0]}.log").exists()


@needs_absent
async def test_an_error_in_the_run_leaves_the_trackers_as_it_is(tmp_path: Path) -> None:
    store = begin(tmp_path)
    with pytest.raises(KeyError, match="mine"):
        async with tracking([ABSENT[0]], store, lambda line: None):
            raise KeyError("mine")

    assert read_position(tmp_path, ABSENT[0]).steps == 0


def test_a_run_without_trackers_starts_no_process(tmp_path: Path) -> None:
    assert send([], whole_run(tmp_path)) == []
    assert not (tmp_path / "tracking").exists()


@pytest.mark.parametrize("end", ["stdin", "kill"])
async def test_the_process_of_a_tracker_ends_with_the_process_of_the_run(tmp_path: Path, end: str) -> None:
    begin(tmp_path).close()
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-P', '-m', 'woodshed.training.track', 'nothing', sys.argv[1]],"
        " stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(p.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stdin is not None
        pid = int(run.stdout.readline())
        assert is_alive(pid)
        if end == "kill":
            run.send_signal(signal.SIGKILL)
        else:
            run.stdin.close()
        await asyncio.to_thread(run.wait)

    await eventually(lambda: not is_alive(pid), "the tracker's process has ended")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False
