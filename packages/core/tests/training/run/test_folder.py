"""A run's folder: what is in it is resumed or left, set aside only if asked to; foreign folders are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from builders import call, said, trajectory

import woodshed
from woodshed.training.run.folder import open_folder, run_folder
from woodshed.training.run.store import RunStore
from woodshed.training.step import discard_refused_step, save_refused_step
from woodshed.types import Judgement, StepReport


def _run(folder: Path, *, finished: bool) -> None:
    store = RunStore(folder)
    store.claim({"steps": 3})
    if finished:
        store.save_fact("finished", True)
    store.close()


def test_an_unfinished_run_is_gone_on_with(tmp_path: Path) -> None:
    _run(tmp_path / "r", finished=False)

    assert open_folder(tmp_path / "r", name="x", fresh=False) == tmp_path / "r"
    assert (tmp_path / "r" / "config.json").exists()


def test_a_finished_run_stays_where_it_is(tmp_path: Path) -> None:
    _run(tmp_path / "r", finished=True)

    assert open_folder(tmp_path / "r", name="x", fresh=False) == tmp_path / "r"
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("finished", [True, False])
def test_fresh_sets_a_run_aside_whole_and_says_where(
    tmp_path: Path, finished: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path / "r", finished=finished)

    folder = open_folder(tmp_path / "r", name="x", fresh=True)

    assert list(folder.iterdir()) == []
    (aside,) = (p for p in tmp_path.iterdir() if p != folder)
    assert (aside / "config.json").exists()
    assert f"the run that was in {folder} is now in {aside}" in capsys.readouterr().out


@pytest.mark.parametrize("name", [".DS_Store", "._.DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_a_desktop_leaves_in_a_folder_makes_it_no_foreign_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / name).write_bytes(b"x")

    assert open_folder(tmp_path / "r", name="x", fresh=True) == tmp_path / "r"
    assert (tmp_path / "r" / name).exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_model_is_no_run_though_it_has_a_config(tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")

    with pytest.raises(woodshed.ConfigError, match=r"holds no run of woodshed \(there is 'config.json'\)"):
        open_folder(tmp_path / "m", name="x", fresh=fresh)
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["config.json"]


def test_a_folder_that_is_not_a_run_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(woodshed.ConfigError, match="not empty and holds no run"):
        open_folder(tmp_path, name="x", fresh=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("")

    with pytest.raises(woodshed.ConfigError, match="is a file; expected a folder"):
        open_folder(tmp_path / "r", name="x", fresh=False)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_in_which_a_process_is_at_work_is_refused_and_stays(tmp_path: Path, fresh: bool) -> None:
    with run_folder(tmp_path / "r", name="x", fresh=False) as folder:
        RunStore(folder).close()
        with (
            pytest.raises(
                woodshed.ConfigError, match=rf"process {os.getpid()} is at work on the run in .*another run_dir"
            ),
            run_folder(folder, name="x", fresh=fresh),
        ):
            pass
        assert (folder / "run.sqlite").exists()
    with run_folder(folder, name="x", fresh=fresh):
        pass  # the first has ended


def test_a_run_that_is_gone_on_with_may_have_other_limits(tmp_path: Path) -> None:
    RunStore(tmp_path).claim({"steps": 3}, {"max_staleness": 1})

    RunStore(tmp_path).claim({"steps": 3}, {"max_staleness": 0})

    assert json.loads((tmp_path / "config.json").read_text()) == {"steps": 3, "limits": {"max_staleness": 0}}


@pytest.mark.parametrize(("limit", "kept"), [(0.3, False), (0.5, True)])
def test_what_was_refused_for_drift_is_put_away_unless_the_limit_is_raised(
    tmp_path: Path, limit: float, kept: bool
) -> None:
    store = RunStore(tmp_path)
    slots = ("before/s/0", "1/s/0", "2/s/0", "10/s/0")
    for slot in slots:
        store.save_trajectory(slot, trajectory(slot, call(said("4"))))
        store.save_judgement(slot.removesuffix("/0"), Judgement())
    save_refused_step(store, 2, 0.3)

    said_so = discard_refused_step(store, limit)

    assert [store.trajectory(s) is not None for s in slots] == [True, True, kept, kept]
    assert [store.judgement(s.removesuffix("/0")) is not None for s in slots] == [True, True, kept, kept]
    assert (said_so is None) == kept
    if said_so is not None:
        assert "step 3 was refused" in said_so and "(2)" in said_so
    store.save_trajectory("2/s/0", trajectory("anew", call(said("4"))))
    assert discard_refused_step(store, limit) is None
    assert store.trajectory("2/s/0") is not None


def test_an_evaluation_is_kept_where_the_very_first_step_was_refused(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for slot in ("before/s/0", "0/s/0"):
        store.save_trajectory(slot, trajectory(slot, call(said("4"))))

    assert store.set_aside(0) == 1
    assert store.trajectory("before/s/0") is not None


def test_what_was_saved_is_there_for_the_next_process(tmp_path: Path) -> None:
    kept = trajectory("a", call(said("4")))
    report = StepReport(step_id="step-00000", version=1, trained=True)
    store = RunStore(tmp_path)
    store.save_trajectory("0/s/0", kept)
    store.save_step(0, report, {"step": 0})
    store.close()

    again = RunStore(tmp_path)

    assert again.trajectory("0/s/0") == kept
    assert again.step("step-00000") == (report, {"step": 0})
    assert again.history() == [{"step": 0}]
