"""A run's folder is opened to read only; what cannot be read is named with the next step."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from recorded_run import SCENARIOS, Recorded
from view_client import Client, untouched

from woodshed.errors import ConfigError, StorageError
from woodshed.training.run.folder import run_folder
from woodshed.training.run.read_store import ReadStore
from woodshed.training.run.store import FORMAT, RunStore
from woodshed.view.reader import RunReader, newest_runs
from woodshed.view.serve import chosen_runs


def newer(folder: Path) -> None:
    with sqlite3.connect(folder / "run.sqlite") as db:
        db.execute(f"PRAGMA user_version={FORMAT + 1}")
    db.close()


def torn(folder: Path) -> None:
    (folder / "run.sqlite").write_bytes(b"\0" * 5000)


def half(folder: Path) -> None:
    (folder / "run.sqlite").write_bytes(b"")


def without_tables(folder: Path) -> None:
    with sqlite3.connect(folder / "run.sqlite") as db:
        db.execute("DROP TABLE steps")
    db.close()


def only_lock(folder: Path) -> None:
    (folder / "run.sqlite").unlink()
    (folder / "run.lock").touch()


def foreign(folder: Path) -> None:
    (folder / "run.sqlite").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (newer, f"written by a newer woodshed (format {FORMAT + 1}; this one knows up to {FORMAT})"),
        (torn, "cannot be read as a run's database"),
        (half, "is only half made: it lacks facts, judgements, steps, trajectories"),
        (without_tables, "is only half made: it lacks steps"),
        (only_lock, "is only half made: there is no run.sqlite"),
        (foreign, "holds no run of woodshed (there is no run.sqlite)"),
    ],
)
def test_what_is_no_readable_run_is_named(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    damage(copy)

    with untouched(copy), pytest.raises(ConfigError) as raised:
        ReadStore(copy)

    assert said in str(raised.value) and str(copy) in str(raised.value)


def test_a_name_that_is_no_folder_is_named(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, said in [(tmp_path / "nothing", "there is no folder"), (file, "is a file")]:
        with pytest.raises(ConfigError, match=said):
            ReadStore(path)
    with pytest.raises(ConfigError, match="there are runs inside it: recorded"):
        ReadStore(folder.parent)


def test_the_store_refuses_to_write(folder: Path) -> None:
    with untouched(folder), ReadStore(folder) as store, pytest.raises(StorageError):
        store.save_fact("new", 1)


async def test_a_run_is_read_while_another_process_writes_it(tmp_path: Path) -> None:
    run = Recorded(tmp_path / "live")
    run.begin()
    client = Client(tmp_path / "live")
    await run.step(0)
    assert (await client.get("runs/0/overview"))["steps"] == [1]

    await run.step(1)

    assert (await client.get("runs/0/overview"))["steps"] == [1, 2]
    run.close()


async def test_what_is_under_way_is_shown_while_a_process_holds_the_run(tmp_path: Path) -> None:
    with run_folder(tmp_path / "live", name="live", fresh=False) as folder:
        run = Recorded(folder)
        run.begin()
        slots = [f"0/{SCENARIOS[0]}/{n}" for n in range(3)]
        for slot in slots:
            run.store.rollout_waits(slot)
        run.store.rollout_runs(slots[1], "some-rollout")
        client = Client(folder)

        shown = await client.get("runs/0/in_progress")

        assert shown["process"]["pid"] == os.getpid() and shown["phase"] == "rollouts"
        assert shown["counts"] == {"running": 1, "waiting": 2, "judging": 0}
        assert [(i["slot"], i["state"]) for i in shown["items"]] == [
            (slots[1], "running"), (slots[0], "waiting"), (slots[2], "waiting"),
        ]  # fmt: skip
        assert all(0 <= shown["now_s"] - i["since_s"] < 60 for i in shown["items"])

        run.ruler = None
        await run.group(1, SCENARIOS[1])  # all ended, and not judged
        run.store.save_fact("finished", False)
        shown = await client.get("runs/0/in_progress")
        assert [i["slot"] for i in shown["items"] if i["state"] == "judging"] == [f"1/{SCENARIOS[1]}"]
        run.close()
    ended = await client.get("runs/0/in_progress")
    assert (ended["process"], ended["items"]) == (None, []) and "start it again" in ended["phase"]


async def test_what_a_killed_process_left_is_not_under_way(tmp_path: Path) -> None:
    run = Recorded(tmp_path / "killed")
    run.begin()
    run.store.rollout_waits("0/a/0")
    run.close()
    # The lock names a process that is alive, but began after the lock was written: another one of that number.
    lock = tmp_path / "killed" / "run.lock"
    lock.write_text(str(os.getpid()))
    os.utime(lock, (1.0, 1.0))

    assert RunReader(tmp_path / "killed").process() is None

    with run_folder(tmp_path / "killed", name="again", fresh=False):
        os.utime(lock, (lock.stat().st_mtime + 5, lock.stat().st_mtime + 5))
        shown = await Client(tmp_path / "killed").get("runs/0/in_progress")
        assert shown["items"] == [] and "step 1" in shown["phase"]


def test_a_lock_of_another_folders_process_is_none(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (copy / "run.lock").write_text(str(other.pid))

        assert RunReader(copy).process() is None

        assert other.stdin is not None
        other.stdin.close()


def test_reading_never_takes_the_lock(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "run.lock").write_text(str(os.getpid()))
    with (copy / "run.lock").open() as lock:
        reader = RunReader(copy)
        assert reader.process() is not None
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_in_a_folder_that_nobody_may_write_is_read(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for file in copy.glob("run.sqlite-*"):
        file.unlink()
    copy.chmod(0o555)
    try:
        with RunReader(copy).store() as store:
            assert len(store.history()) == 3
    finally:
        copy.chmod(0o755)


def test_a_run_of_an_older_woodshed_is_read(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    with sqlite3.connect(copy / "run.sqlite") as db:
        db.execute("DROP TABLE unfinished")
        db.execute("UPDATE judgements SET body = json_remove(body, '$.readings')")
        db.execute("DELETE FROM facts WHERE name GLOB 'measured_*'")
    db.close()
    shutil.rmtree(copy / "engine")
    from woodshed.view.groups import group
    from woodshed.view.held_out import scenarios
    from woodshed.view.tokens import tokens

    reader, slot = RunReader(copy), f"1/{SCENARIOS[0]}/0"
    assert group(reader, f"1/{SCENARIOS[0]}")["judgement"]["readings"] == []
    assert scenarios(reader)["items"][0]["success"] == [None, None]
    notes = tokens(reader, slot, f"1/{SCENARIOS[0]}-0/1")["notes"]
    assert notes == ["importance ratios are not in this folder: the engine of this run is elsewhere, or older"]


def test_without_a_name_the_newest_run_comes_first(folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for age, name in [(100, "old"), (10, "new"), (50, "middle")]:
        copy = Path(shutil.copytree(folder, runs / name))
        for file in copy.glob("run.sqlite*"):
            os.utime(file, (1e9 - age, 1e9 - age))
    (runs / "broken").mkdir()
    (runs / "broken" / "run.sqlite").write_bytes(b"")

    assert [f.name for f in newest_runs(runs)][1:] == ["new", "middle", "old"]
    assert [r.name for r in chosen_runs([], among=runs)] == ["new", "middle", "old"]
    with pytest.raises(ConfigError, match="there is no run in"):
        chosen_runs([], among=tmp_path / "none")


def test_a_store_that_is_open_elsewhere_is_not_upgraded(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    with sqlite3.connect(copy / "run.sqlite") as db:
        db.execute("PRAGMA user_version=0")
    db.close()

    with untouched(copy):
        ReadStore(copy).close()

    RunStore(copy).close()  # writing does
