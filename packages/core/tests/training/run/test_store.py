"""The store of a run: torn or foreign files are named, and nothing is read twice."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from woodshed.errors import ConfigError
from woodshed.training.run.folder import open_folder
from woodshed.training.run.store import RunStore
from woodshed.types import StepReport


def test_torn_settings_are_named_and_left(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"policy": {"mod')
    store = RunStore(tmp_path)

    with pytest.raises(ConfigError, match=r"config.json' cannot be read as a run's settings.*Restore a copy"):
        store.claim({"policy": 1})
    store.close()

    assert (tmp_path / "config.json").read_text() == '{"policy": {"mod'


def test_settings_are_written_whole(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.claim({"policy": 1}, {"max_concurrency": 2})
    store.claim({"policy": 1}, {"max_concurrency": 3})
    store.close()

    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith("run.sqlite")} == {"config.json"}


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").write_bytes(b"not a database at all, but long enough to be read as one" * 20)

    with pytest.raises(ConfigError, match=r"run.sqlite' cannot be used as a run's database"):
        RunStore(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="file/run' cannot be written: Not a directory"):
        open_folder(tmp_path / "file" / "run", name="run", fresh=False)


def test_only_the_owner_reads_a_runs_database(tmp_path: Path) -> None:
    RunStore(tmp_path).close()

    assert stat.S_IMODE((tmp_path / "run.sqlite").stat().st_mode) == 0o600


def test_the_history_is_that_of_the_file_after_every_step(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for step in range(3):
        store.save_step(step, StepReport(step_id=f"s{step}", version=step, trained=True), {"step": step})
        assert [row["step"] for row in store.history()] == list(range(step + 1))
    store.save_step(1, StepReport(step_id="s1", version=1, trained=True), {"step": 1, "again": True})
    kept = store.history()
    store.close()

    again = RunStore(tmp_path)
    assert again.history() == kept == [{"step": 0}, {"step": 1, "again": True}, {"step": 2}]
    writer = RunStore(tmp_path)
    writer.save_step(3, StepReport(step_id="s3", version=3, trained=True), {"step": 3})
    writer.close()
    assert again.history()[-1] == {"step": 3}
    again.close()


def test_warnings_are_kept_once_in_order(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.add_warnings(["a", "b", "a"])
    store.add_warnings(["b", "c"])

    assert store.fact("warnings") == ["a", "b", "c"]
    store.close()
