"""Promises of the checkpoint folder: what has its own name is whole, whatever was killed when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from woodshed.engine.trainer.checkpoint import KEPT, Checkpoints, Position
from woodshed.errors import TrainError
from woodshed.types import OpenPolicy, StepReport


def write(folder: Path) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "weights").write_bytes(b"w" * 1000)
    (folder / "state.pt").write_bytes(b"s" * 10)


def position(version: int, *steps: str) -> Position:
    reports = tuple(StepReport(step_id=s, version=version, trained=True) for s in steps)
    return Position(version=version, policy=OpenPolicy(name="p"), reports=reports)


def test_saved_position_is_found_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(position(7, "a", "b"), write)
    found = checkpoints.position(7)

    assert found is not None
    assert found.model_copy(update={"sizes": {}, "hashes": {}}) == position(7, "a", "b")
    assert found.sizes == {"adapter/weights": 1000, "state.pt": 10}
    assert found.hashes.keys() == found.sizes.keys()
    assert checkpoints.path(7) == tmp_path / "checkpoints" / "00007"


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for version in range(6):
        checkpoints.save(position(version), write)

    assert checkpoints.kept() == (3, 4, 5)
    assert len(list(checkpoints.folder.iterdir())) == KEPT


@pytest.mark.parametrize(
    ("newest", "also", "kept"),
    [(1, None, (5,)), (2, 1, (1, 4, 5)), (3, 4, (3, 4, 5)), (1, 99, (5,)), (9, 0, (0, 1, 2, 3, 4, 5))],
)
def test_as_many_are_kept_as_asked_and_the_one_that_is_named(
    tmp_path: Path, newest: int, also: int | None, kept: tuple[int, ...]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for version in range(6):
        checkpoints.save(position(version), write, newest=newest, also=also)

    assert checkpoints.kept() == kept


def spoil(file: Path, how: str) -> None:
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:5] if how == "cut" else b"x" * file.stat().st_size)


@pytest.mark.parametrize("how", ["cut", "gone", "other bytes"])
def test_a_damaged_older_checkpoint_is_named_and_stops_nothing(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(position(1), write)
    checkpoints.save(position(2), write)
    spoil(checkpoints.path(1) / "adapter" / "weights", how)

    checkpoints.clean()

    assert checkpoints.kept()[-1] == 2
    assert "00001', cannot be read" in caplog.text and (checkpoints.path(1) / "state.pt").exists()


def test_files_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(position(1), write)
    for name in (".DS_Store", "notes.txt"):
        (checkpoints.folder / name).write_text("mine")
    (checkpoints.folder / ".git").mkdir()

    checkpoints.clean()

    assert checkpoints.kept() == (1,)
    assert {p.name for p in checkpoints.folder.iterdir()} == {"00001", ".DS_Store", "notes.txt", ".git"}


@pytest.mark.parametrize("damage", ["position.json", "state.pt", "adapter/weights"])
@pytest.mark.parametrize("how", ["cut", "gone", "other bytes"])
def test_damaged_checkpoint_is_not_whole_and_is_named_and_left(tmp_path: Path, damage: str, how: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(position(1), write)
    checkpoints.save(position(2), write)
    file = checkpoints.path(2) / damage
    spoil(file, how)
    before = sorted(checkpoints.folder.rglob("*"))

    if how != "other bytes":  # those are looked for once, when the trainer starts
        assert checkpoints.kept() == (1,)
    with pytest.raises(TrainError, match=r"00002' cannot be read: .*move the folder away"):
        checkpoints.clean()
    assert sorted(checkpoints.folder.rglob("*")) == before


def test_checkpoint_of_another_version_of_woodshed_is_named_and_left(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(position(7), write)
    file = checkpoints.path(7) / "position.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2, "later": 1}))

    with pytest.raises(TrainError, match=r"00007' cannot be read: .*format.*later.*Use the woodshed that wrote it"):
        checkpoints.clean()
    assert (checkpoints.path(7) / "adapter" / "weights").stat().st_size == 1000


def test_only_what_was_left_half_written_is_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(position(1), write)
    for half in (".00002", ".old-00000"):
        (checkpoints.folder / half / "adapter").mkdir(parents=True)
    checkpoints.clean()

    assert [p.name for p in checkpoints.folder.iterdir()] == ["00001"]


def test_failure_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(position(1), write)

    def full(folder: Path) -> None:
        write(folder)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        checkpoints.save(position(2), full)

    assert checkpoints.kept() == (1,)
    checkpoints.save(position(2), write)
    assert checkpoints.kept() == (1, 2)


def test_restated_checkpoint_keeps_its_files_and_its_check(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(position(1, "a"), write)
    checkpoints.restate(position(1, "a", "b"))
    found = checkpoints.position(1)

    assert found is not None and [r.step_id for r in found.reports] == ["a", "b"]
    (checkpoints.path(1) / "state.pt").unlink()
    assert checkpoints.position(1) is None


def test_kill_at_any_moment_leaves_whole_checkpoints_only(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from woodshed.engine.trainer.checkpoint import Checkpoints, Position\nfrom woodshed.types import OpenPolicy\n"
        "checkpoints = Checkpoints(Path(sys.argv[1]))\ncheckpoints.clean()\n"
        "def write(folder):\n"
        "    for k in range(20): (folder / f'{k}').write_bytes(bytes(100_000))\n"
        "first = (checkpoints.kept() or (-1,))[-1] + 1\n"
        "print(first, flush=True)\n"
        "for version in range(first, 10_000):\n"
        "    checkpoints.save(Position(version=version, policy=OpenPolicy(name='p')), write)\n"
    )
    checkpoints, newest = Checkpoints(tmp_path), -1
    for pause_s in (0.0, 0.02, 0.05, 0.11, 0.23, 1.0, 4.0, 16.0):
        if pause_s >= 1 and newest > 0:
            break  # the long ones are for a slow disk
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as saver:
            assert saver.stdout is not None
            assert int(saver.stdout.readline()) == newest + 1
            time.sleep(pause_s)
            os.kill(saver.pid, signal.SIGKILL)
        named = {int(p.name) for p in checkpoints.folder.iterdir() if p.name.isdigit()}

        assert named == set(checkpoints.kept())
        newest = max(named, default=newest)
    assert newest > 0
