"""The evaluations of a run: read by step, the best one named, and when they end it. Real store, no engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders import call, said, trajectory

import woodshed
from woodshed.training.finished import finished_run
from woodshed.training.report.evaluations import (
    best,
    evaluations,
    go_on,
    is_stopped,
    not_better,
    outcome_warnings,
    steps_asked,
    stop_early,
)
from woodshed.training.report.files import write_summary
from woodshed.training.report.plot import plot
from woodshed.training.report.summary import Summary, summarise
from woodshed.training.run.store import RunStore
from woodshed.types import EngineHealth, StepReport

ROW = {
    "reward": 0.5, "rollouts": 4, "masked": 0, "unjudged_groups": 0, "stale_groups": 0, "judge_requests": 0,
    "judge_tokens": 0, "judge_cost_usd": None, "trained": True, "tokens/resent": 0, "tokens/continued": 0,
    "tokens/forks": 0, "train/step_seconds": 1.0, "train/trained_tokens": 9,
}  # fmt: skip


def run(folder: Path, success: Mapping[str, float], *, steps: int = 6, untrained: int = 0) -> RunStore:
    """Return the store of a run whose first `untrained` steps changed no weights."""
    store = RunStore(folder)
    store.save_fact("start_version", 0)
    store.save_fact("checkpoints", "/engine/checkpoints")
    for step in range(steps):
        version = max(step + 1 - untrained, 0)
        report = StepReport(step_id=f"step-{step:05d}", version=version, trained=version > 0)
        store.save_step(step, report, {**ROW, "step": step, "version": version, "trained": version > 0})
    for name, value in success.items():
        store.save_fact(f"success_{name}", value)
        store.save_fact(f"interval_{name}", [value - 0.125, value + 0.125])
    return store


def summary_of(store: RunStore) -> Summary:
    return summarise(
        store, store.history(), health=EngineHealth(woodshed="0"), seconds=1.0, peak_rss_mb=1.0,
        judge=woodshed.FunctionReward(lambda t: 1.0),
    )  # fmt: skip


MEASURED = {"after_step_10": 0.5, "before": 0.25, "after_step_2": 0.75, "after_step_4": 0.75, "after": 0.625}


def test_the_best_version_is_named_with_its_interval_and_its_lora(tmp_path: Path) -> None:
    summary = summary_of(run(tmp_path, MEASURED, steps=12))

    assert [(p.step, p.version, p.success) for p in summary.evaluations] == [
        (0, 0, 0.25), (2, 2, 0.75), (4, 4, 0.75), (10, 10, 0.5), (12, 12, 0.625)
    ]  # fmt: skip
    assert (summary.best_step, summary.best_success, summary.best_interval) == (2, 0.75, (0.625, 0.875))
    assert summary.best_adapter == "/engine/checkpoints/00002/adapter"
    assert summary.last_adapter == "/engine/checkpoints/00012/adapter"
    assert (summary.interval_before, summary.interval_after) == ((0.125, 0.375), (0.5, 0.75))
    assert summary.held_out() == (
        "held-out success 0.250 [0.125, 0.375] → 0.625 [0.500, 0.750], best 0.750 [0.625, 0.875] after step 2 "
        "(LoRA: /engine/checkpoints/00002/adapter)"
    )
    assert Summary.model_validate_json(summary.model_dump_json()) == summary
    assert summary.warnings == ()


def test_only_weights_that_were_trained_can_be_the_best_and_it_is_said_if_none_got_better(tmp_path: Path) -> None:
    store = run(tmp_path, {"before": 0.5, "after_step_1": 0.9, "after_step_3": 0.5, "after": 0.25}, untrained=2)

    summary = summary_of(store)

    assert summary.best_step == 3
    assert summary.warnings == (
        "no trained version was better on the held-out scenarios than what the run started with: 0.500 [0.375, 0.625] "
        "before training, at best 0.500 [0.375, 0.625] after step 3",
    )


def test_a_run_without_an_evaluation_has_no_best_version(tmp_path: Path) -> None:
    summary = summary_of(run(tmp_path, {}))

    assert (summary.evaluations, summary.best_step, summary.held_out()) == ((), None, "")


def test_figures_of_an_older_run_have_no_interval(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.save_fact("success_before", 0.5)

    (point,) = evaluations(store, [])

    assert (point.interval, point.rollouts, str(point)) == (None, None, "0.500 before training")


@pytest.mark.parametrize(
    ("success", "count"),
    [
        ({"before": 0.9, "after_step_1": 0.1}, 0),
        ({"after_step_1": 0.5, "after_step_2": 0.5}, 1),
        ({"after_step_1": 0.5, "after_step_2": 0.4, "after_step_3": 0.5}, 2),
        ({"after_step_1": 0.5, "after_step_2": 0.4, "after_step_3": 0.6}, 0),
        ({"before": 0.9}, 0),
    ],
)
def test_patience_counts_evaluations_in_a_row_that_are_not_better(
    tmp_path: Path, success: Mapping[str, float], count: int
) -> None:
    store = run(tmp_path, success)

    assert not_better(evaluations(store, store.history())) == count


def test_a_run_that_stops_early_is_finished_and_says_so_until_more_is_asked_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    success = {"before": 0.25, "after_step_2": 0.75, "after_step_4": 0.5, "after_step_6": 0.75}
    store = run(tmp_path, success)
    text = (
        "stopped after step 6 of 40: 2 held-out evaluations in a row were not better than the best, 0.750 "
        "[0.625, 0.875] after step 2 (Evaluation.patience=2)"
    )

    assert (stop_early(store, None, 40), stop_early(store, 3, 40)) == (None, None)
    assert stop_early(store, 2, 40) == text
    store.close_with(6)
    summary = summary_of(store)
    write_summary(tmp_path, summary.model_dump(mode="json"))
    store.save_fact("finished", True)

    assert summary.warnings == (text,)
    assert (summary.steps, summary.success_after) == (6, 0.75)
    assert outcome_warnings(store, ()) == [text]
    assert finished_run(store, 40, 2) is not None and finished_run(store, 6, 2) is not None
    assert "best 0.750" in (said_now := capsys.readouterr().out) and "ask for more steps than 40" in said_now
    assert (finished_run(store, 41, 2), finished_run(store, 40, None), finished_run(store, 40, 5)) == (None,) * 3

    go_on(store)
    store.reopen()
    assert not is_stopped(store, 40, 2) and steps_asked(store) == 6
    assert stop_early(store, 2, 41) is None  # the patience begins anew
    assert best(evaluations(store, store.history())) == summary.evaluations[1]
    assert [p.step for p in evaluations(store, store.history())] == [0, 2, 4, 6]


def test_an_evaluation_after_what_became_the_last_step_is_not_repeated(tmp_path: Path) -> None:
    store = run(tmp_path, {"after_step_6": 0.5})
    for slot in ("after-step-6/a/0", "after-step-60/a/0"):
        store.save_trajectory(slot, trajectory(slot, call(said("4"))))

    store.close_with(6)

    assert store.facts("success_") == {"after": 0.5} and store.facts("interval_") == {"after": [0.375, 0.625]}
    assert store.trajectory("after/a/0") is not None and store.trajectory("after-step-60/a/0") is not None
    store.reopen()
    assert store.facts("success_") == {"after_step_6": 0.5}
    assert store.trajectory("after-step-6/a/0") is not None


def test_every_evaluation_is_on_the_plot_with_its_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    drawn: list[Any] = []

    class Watched(figure.Figure):  # type: ignore[misc, name-defined]
        def savefig(self, *args: Any, **settings: Any) -> None:
            drawn.append(self)
            super().savefig(*args, **settings)

    monkeypatch.setattr(figure, "Figure", Watched)
    store = run(tmp_path, MEASURED, steps=12)
    plot(tmp_path / "plot.png", store.history(), summary_of(store))

    (axes,) = drawn[0].axes
    (bars,) = axes.containers
    ends = [height for segment in bars.lines[2][0].get_segments() for height in segment[:, 1]]
    assert list(bars.lines[0].get_xdata()) == [0, 2, 4, 10, 12]
    assert ends == pytest.approx([v + d for v in (0.25, 0.75, 0.75, 0.5, 0.625) for d in (-0.125, 0.125)])
    assert [line.get_label() for line in axes.lines if "best" in str(line.get_label())] == ["best: step 2"]
