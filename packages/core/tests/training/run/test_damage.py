"""Full, read-only and torn disks: an error that names the file, and everything that was stored before stays."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import call, said, trajectory

import woodshed
from woodshed.engine.trainer.checkpoint import Checkpoints, Position
from woodshed.rewards.cache import SqliteCache
from woodshed.training.run.folder import run_folder
from woodshed.training.run.storage import storage
from woodshed.training.run.store import FORMAT, RunStore
from woodshed.training.run.whole_file import write_whole
from woodshed.types import OpenPolicy, StepReport

ONE = trajectory("one", call(said("4")))
PATH = [str(Path(__file__).parent), *sys.path]


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Let the kernel refuse to write beyond `size` bytes of a file, as a full disk or a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def _filled(store: RunStore, most: int = 10_000) -> int:
    """Store rollouts until the disk refuses one; return how many it took."""
    for number in range(most):
        try:
            store.save_trajectory(f"0/s/{number}", ONE)
        except woodshed.StorageError as error:
            assert "run.sqlite' cannot be written" in str(error) and "run it again to resume" in str(error)
            return number
    raise AssertionError("the disk never was full")


def test_a_full_disk_under_the_database_is_named_and_what_was_stored_stays(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with no_file_longer_than(200_000):
        count = _filled(store)
    store.save_step(0, StepReport(step_id="s", version=1, trained=True), {"step": 0})
    store.close()

    again = RunStore(tmp_path)
    assert count > 5
    assert all(again.trajectory(f"0/s/{number}") == ONE for number in range(count))
    assert again.trajectory(f"0/s/{count}") is None
    assert again.history() == [{"step": 0}]
    again.close()


_ON_A_TINY_DISK = """
import sys
import tempfile
from pathlib import Path
sys.path[:0] = {path!r}
from test_damage import _filled
from woodshed.training.run.store import RunStore
from woodshed.training.run.whole_file import write_whole
from woodshed.training.run.folder import run_folder
import woodshed

folder = Path({folder!r})
with run_folder(folder / "run", name="x", fresh=False) as run:
    store = RunStore(run)
    store.claim({{"steps": 3}})
    count = _filled(store)
    try:
        write_whole(run / "summary.json", "x" * 2**20)
        raise SystemExit("the file was written")
    except woodshed.StorageError as error:
        assert "No space left on device" in str(error) and "summary.json" in str(error), error
    assert not list(run.glob(".*.tmp"))
    store.close()
with run_folder(folder / "run", name="x", fresh=False) as run:
    again = RunStore(run)
    again.claim({{"steps": 3}})
    assert all(again.trajectory(f"0/s/{{n}}") is not None for n in range(count))
    again.close()
print("kept", count)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tiny disk in a namespace of its own")
def test_a_disk_without_room_keeps_the_run(tmp_path: Path) -> None:
    code = _ON_A_TINY_DISK.format(path=PATH, folder=str(tmp_path))
    script = 'mount -t tmpfs -o size=1280k tmpfs "$1" && exec "$2" -c "$3"'
    namespace = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.getuid() else [])]
    if subprocess.run([*namespace, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk; RLIMIT_FSIZE above is the same refusal")

    done = subprocess.run(
        [*namespace, "sh", "-c", script, "sh", str(tmp_path), sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kept ")


def test_a_file_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    write_whole(tmp_path / "summary.json", "old")

    with no_file_longer_than(1000), pytest.raises(woodshed.StorageError, match=r"summary.json' cannot be written"):
        write_whole(tmp_path / "summary.json", "x" * 2000)

    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"summary.json": "old"}


def test_a_verdict_that_cannot_be_stored_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "judge.sqlite")
    with no_file_longer_than(20_000), pytest.raises(woodshed.StorageError, match=r"judge\.sqlite"):
        for number in range(10_000):
            with storage(cache.path):
                cache.put(str(number), [])
    cache.close()


def _write(size: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "state.pt").write_bytes(b"s" * size)

    return write


def test_a_checkpoint_that_does_not_fit_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    good = Position(version=1, policy=OpenPolicy(name="p"))
    checkpoints.save(good, _write(100))
    (checkpoints.folder / ".DS_Store").write_text("a desktop was here")
    (checkpoints.folder / "00001" / ".DS_Store").write_text("and here")

    with (
        no_file_longer_than(10_000),
        pytest.raises(OSError, match=r"checkpoint '.*00002' cannot be written \(\d+ MiB are free there\): .*too large"),
    ):
        checkpoints.save(good.model_copy(update={"version": 2}), _write(20_000))

    assert {p.name for p in checkpoints.folder.iterdir()} == {"00001", ".DS_Store"}
    checkpoints.clean()
    assert checkpoints.kept() == (1,)
    checkpoints.save(good.model_copy(update={"version": 2}), _write(20_000))
    assert checkpoints.kept() == (1, 2)


def test_a_refusal_inside_a_group_of_tasks_is_the_error(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "f"))

    with pytest.raises(woodshed.StorageError, match="f' cannot be written: No space left on device"), storage(tmp_path):
        raise ExceptionGroup("tasks", [KeyError("x"), ExceptionGroup("more", [full])])
    with pytest.raises(ExceptionGroup), storage(tmp_path):
        raise ExceptionGroup("tasks", [KeyError("x")])
    with pytest.raises(FileNotFoundError), storage(tmp_path):
        (tmp_path / "gone").read_text()


_AS_NOBODY = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1])
from woodshed.training.run.folder import run_folder
from woodshed.training.run.store import RunStore
import woodshed
os.setuid(65534) if os.getuid() == 0 else None
for work in (
    lambda: run_folder(folder, name="x", fresh=False).__enter__(),
    lambda: run_folder(folder, name="x", fresh=True).__enter__(),
    lambda: run_folder(folder / "new", name="x", fresh=False).__enter__(),
    lambda: RunStore(folder).save_fact("a", 1),
):
    try:
        work()
        print("nothing")
    except (woodshed.ConfigError, woodshed.StorageError) as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder whose parents anyone may look into; pytest's own are closed to other users."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder that a process of its own may not look into")
def test_a_folder_nobody_may_look_into_is_named(open_path: Path) -> None:
    closed = open_path / "closed"
    closed.mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, str(closed / "r")], capture_output=True, text=True, check=False
    )

    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert all("Permission denied" in line and str(closed) in line for line in lines), lines


def test_a_folder_that_may_only_be_read_is_named(open_path: Path) -> None:
    folder = open_path / "r"
    store = RunStore(folder)
    store.save_fact("a", 0)
    store.close()
    shutil.copy(folder / "run.sqlite", folder / "run.lock")
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)

    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, str(folder)], capture_output=True, text=True, check=False, cwd=open_path
    )
    folder.chmod(0o755)

    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert all("cannot be written" in line and str(folder) in line for line in lines), lines
    kept = RunStore(folder)
    assert kept.fact("a") == 0
    kept.close()


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_damage import ONE
from woodshed.training.run.store import RunStore
store = RunStore(Path({folder!r}))
for number in range(40):
    store.save_trajectory(f"0/s/{{number}}", ONE)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("torn", ["half", "bits", "shm", "whole"])
def test_a_torn_log_loses_its_end_and_nothing_before(tmp_path: Path, torn: str) -> None:
    code = _KILLED.format(path=PATH, folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    log = tmp_path / "run.sqlite-wal"
    size = log.stat().st_size
    assert size > 4096
    match torn:
        case "half":
            os.truncate(log, size // 2 + 100)
        case "bits":
            with log.open("r+b") as file:
                file.seek(size - 2000)
                file.write(os.urandom(500))
        case "shm":
            (tmp_path / "run.sqlite-shm").write_bytes(os.urandom(32768))

    store = RunStore(tmp_path)
    kept = [store.trajectory(f"0/s/{number}") == ONE for number in range(40)]
    store.save_trajectory("0/s/39", ONE)
    store.close()

    assert kept == sorted(kept, reverse=True), "a hole"
    assert (sum(kept) == 40) == (torn in {"whole", "shm"})
    assert sum(kept) > 10
    again = RunStore(tmp_path)
    assert again.trajectory("0/s/39") == ONE
    again.close()


def test_a_database_damaged_within_is_named(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for number in range(200):
        store.save_trajectory(f"0/s/{number}", ONE)
    store.close()
    file = tmp_path / "run.sqlite"
    size = file.stat().st_size
    with file.open("r+b") as database:
        database.seek(4096 * 2)
        database.write(b"\xff" * (size - 4096 * 2))

    store = RunStore(tmp_path)
    with pytest.raises(woodshed.StorageError, match=r"run.sqlite' is damaged: .*Restore a copy"):
        for number in range(200):
            store.trajectory(f"0/s/{number}")
        store.save_trajectory("0/s/new", ONE)
    store.close()


def test_a_run_of_a_newer_woodshed_is_refused_and_not_changed(tmp_path: Path) -> None:
    RunStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "run.sqlite") as db:
        db.execute(f"PRAGMA user_version={FORMAT + 1}")
    db.close()
    before = (tmp_path / "run.sqlite").read_bytes()

    with pytest.raises(woodshed.ConfigError, match=r"written by a newer woodshed \(format 2; .* up to 1\)"):
        RunStore(tmp_path)

    assert (tmp_path / "run.sqlite").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"run.sqlite"}


def test_a_run_of_an_older_woodshed_is_gone_on_with(tmp_path: Path) -> None:
    RunStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "run.sqlite") as db:
        db.execute("PRAGMA user_version=0")
    db.close()

    RunStore(tmp_path).close()

    with sqlite3.connect(tmp_path / "run.sqlite") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    db.close()


def test_foreign_files_in_a_run_change_nothing(tmp_path: Path) -> None:
    with run_folder(tmp_path / "r", name="x", fresh=False) as folder:
        store = RunStore(folder)
        store.claim({"steps": 1})
        store.close()
    for name in (".DS_Store", "notes.txt", "Thumbs.db"):
        (folder / name).write_text("mine")

    with run_folder(tmp_path / "r", name="x", fresh=False) as folder:
        store = RunStore(folder)
        store.claim({"steps": 1})
        store.close()

    assert (folder / "notes.txt").read_text() == "mine"
    assert json.loads((folder / "config.json").read_text()) == {"steps": 1}
