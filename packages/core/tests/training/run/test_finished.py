"""A finished run that is asked for again: nothing is redone, nothing is lost, and what to do next is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import call, said, trajectory

import woodshed
from woodshed.training.finished import finished_run
from woodshed.training.report.files import write_summary
from woodshed.training.report.summary import Summary
from woodshed.training.run.store import RunStore
from woodshed.types import StepReport

SUMMARY = Summary(
    success_before=0.25, success_after=0.5, steps=3, trained_steps=3, lora_swaps=3, failed_calls=0, engine_restarts=0,
    seconds=9.0, peak_rss_mb=1.0, engine="vLLM", judge="f", judge_requests=0, judge_tokens=0, judge_cost_usd=None,
    rollouts=6, masked_rollouts=0, unjudged_groups=0, stale_groups=0, merge_ratio=1.0, forks=0,
    train_tokens_per_s=None, max_logprob_drift=None,
)  # fmt: skip


@woodshed.rollout
def answer(scenario: str) -> None:
    raise AssertionError("nothing is sampled")


class Reward(woodshed.FunctionReward):
    def __repr__(self) -> str:
        return "reward"

    async def judge_group(self, trajectories: Sequence[woodshed.Trajectory]) -> woodshed.Judgement:
        raise AssertionError("nothing is judged")


def _training(folder: Path, steps: int, **changes: Any) -> woodshed.Training:
    settings: dict[str, Any] = {
        "rollout": answer,
        "scenarios": ["a", "b"],
        "policy": woodshed.Policy("m"),
        "reward": Reward(lambda t: 0.0),
        # Nothing listens there: whoever starts the engine fails.
        "engine": woodshed.Engine.connect("http://127.0.0.1:9"),
        "config": woodshed.TrainConfig(steps=steps),
        "run_dir": folder,
    }
    return woodshed.Training(**settings | changes)


def _finish(folder: Path, steps: int = 3) -> None:
    """Make what a run leaves that has ended."""
    with pytest.raises(woodshed.EngineError):
        _training(folder, steps).run()
    store = RunStore(folder)
    for step in range(steps):
        row = {"step": step, "version": step + 1, "trained": True}
        store.save_step(step, StepReport(step_id=f"step-{step:05d}", version=step + 1, trained=True), row)
    store.save_fact("success_after", 0.5)
    store.save_trajectory("after/a/0", trajectory("a", call(said("4"))))
    store.save_fact("finished", True)
    store.close()
    write_summary(folder, {**SUMMARY.model_dump(mode="json"), "a figure of the caller's": 1})


def _files(folder: Path) -> dict[str, bytes]:
    names = ("config.json", "summary.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_the_same_run_again_is_returned_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r"
    _finish(folder)
    capsys.readouterr()
    before = _files(folder)

    run = _training(folder, 3).run()

    assert (run.folder, run.summary) == (folder, SUMMARY)
    assert [row["step"] for row in run.history] == [0, 1, 2]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"the run in {folder} is finished: 3 steps, held-out success 0.250 → 0.500; figures: ")
    assert all(part in line for part in (str(folder / "summary.json"), "--steps N", "--fresh", "--run-dir"))
    assert _files(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_the_lora_of_a_finished_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _finish(tmp_path / "r")
    store = RunStore(tmp_path / "r")
    home = tmp_path / "r" / "engine" / "policies" / "policy" / store.run_id() / "checkpoints"
    store.close()
    for version in ("00002", "00003"):
        (home / version / "adapter").mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (home / version / "adapter" / name).write_text("{}")
    (home / ".DS_Store").write_text("")

    run = _training(tmp_path / "r", 3).run()

    assert run.adapter == home / "00003" / "adapter"
    assert f"LoRA: {home / '00003' / 'adapter'}" in capsys.readouterr().out


def test_fewer_steps_than_were_taken_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    _finish(tmp_path / "r")
    before = _files(tmp_path / "r")

    with pytest.raises(woodshed.ConfigError, match=r"steps is 2, but the run .* has taken 3 .*Ask for 3 or more"):
        _training(tmp_path / "r", 2).run()
    assert _files(tmp_path / "r") == before


def test_other_settings_are_refused_and_the_finished_run_stays(tmp_path: Path) -> None:
    _finish(tmp_path / "r")
    before = _files(tmp_path / "r")

    with pytest.raises(woodshed.ConfigError, match=r"holds a finished run with other settings:\n  scenarios.ids: "):
        _training(tmp_path / "r", 3, scenarios=["a", "b", "c"]).run()
    assert _files(tmp_path / "r") == before
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_an_extension_that_cannot_begin_loses_nothing(tmp_path: Path) -> None:
    _finish(tmp_path / "r")

    with pytest.raises(woodshed.EngineError):
        _training(tmp_path / "r", 5).run()

    assert _training(tmp_path / "r", 3).run().summary == SUMMARY


def test_what_was_measured_before_an_extension_is_kept_under_its_step(tmp_path: Path) -> None:
    _finish(tmp_path / "r")
    store = RunStore(tmp_path / "r")

    store.reopen()
    store.reopen()

    assert finished_run(store, 3) is None
    assert (store.fact("success_after"), store.fact("success_after_step_3")) == (None, 0.5)
    assert store.trajectory("after/a/0") is None
    assert store.trajectory("after-step-3/a/0") is not None
    store.close()


@pytest.mark.parametrize("text", ["{", "[]", '{"steps": 3}'])
def test_figures_that_cannot_be_read_are_named(tmp_path: Path, text: str) -> None:
    _finish(tmp_path / "r")
    (tmp_path / "r" / "summary.json").write_text(text)

    with pytest.raises(woodshed.ConfigError, match=r"summary.json' cannot be read.*Restore a copy"):
        _training(tmp_path / "r", 3).run()


def test_a_database_that_is_gone_is_not_started_again_over_its_checkpoints(tmp_path: Path) -> None:
    _finish(tmp_path / "r")
    (tmp_path / "r" / "engine" / "policies" / "policy" / "id" / "checkpoints" / "00003").mkdir(parents=True)
    for file in (tmp_path / "r").glob("run.sqlite*"):
        file.unlink()

    with pytest.raises(woodshed.ConfigError, match=r"run.sqlite' is empty, but .*00003'.*Restore a copy"):
        _training(tmp_path / "r", 3).run()
    assert json.loads((tmp_path / "r" / "config.json").read_text())["limits"]["steps"] == 3
