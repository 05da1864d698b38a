"""What an evaluation counts: every rollout, also those that failed; and how it ends where the engine cannot go on."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from builders import trajectory
from rich.console import Console

import woodshed
from woodshed.capture import rollout
from woodshed.engine import EngineClient
from woodshed.training.evaluation import evaluate, evaluate_between, held_out_warning, measure
from woodshed.training.report.progress import RunProgress
from woodshed.training.report.summary import summarise
from woodshed.training.rollouts.groups import RunContext
from woodshed.training.rollouts.prefetch import PrioritySemaphore
from woodshed.training.run.store import RunStore
from woodshed.types import EngineHealth, Failure, Trajectory


async def test_many_rollouts_of_an_evaluation_fail_as_one(tmp_path: Path) -> None:
    asked = woodshed.Evaluation(scenarios=["a", "b", "c"], measure=lambda trajectory, scenario: 1.0)
    store = RunStore(tmp_path)
    async with EngineClient("http://127.0.0.1:9") as client:
        context = RunContext(
            function=rollout(lambda _: None), client=client, store=store, policy=woodshed.Policy("m"),
            policy_name="policy", config=woodshed.TrainConfig(), start_version=0, semaphore=PrioritySemaphore(4),
        )  # fmt: skip
        with RunProgress(folder=tmp_path, steps=1, console=Console(quiet=True)) as progress:
            with pytest.raises(woodshed.EngineError, match=r"127\.0\.0\.1:9"):
                await evaluate(context, asked, "before", progress)

    assert store.fact("success_before") is None


def ended(number: int, failure: Failure | None = None) -> tuple[Trajectory, str]:
    return trajectory(str(number), failed=failure), "scenario"


def test_a_failed_rollout_counts_as_a_failure_and_a_broken_engine_masks_it() -> None:
    failed = Failure(kind="ValueError", message="no")
    down = Failure(kind="APIConnectionError", message="down", cause="infrastructure")
    rollouts = [ended(0), *(ended(n, failed) for n in range(1, 10)), ended(10, down)]
    evaluation = woodshed.Evaluation(scenarios=["a"], measure=lambda trajectory, scenario: 1.0)

    measured = measure(evaluation, rollouts)

    assert measured.success == pytest.approx(0.1)
    assert str(measured) == "1 of 10 (9 failed: ValueError; 1 masked: APIConnectionError)"
    assert measured.by_rollout == {"0": 1.0, **{str(n): 0.0 for n in range(1, 10)}}


def test_success_that_is_no_yes_or_no_is_a_mean() -> None:
    evaluation = woodshed.Evaluation(scenarios=["a"], measure=lambda trajectory, scenario: 0.25)

    assert str(measure(evaluation, [ended(0), ended(1)])) == "mean of 2"


async def later(trajectory: Trajectory, scenario: Any) -> float:
    return 1.0


@pytest.mark.parametrize("wrong", [lambda t, s: None, lambda t, s: "1", lambda t, s: float("nan"), later])
def test_a_measure_that_returns_no_number_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(woodshed.ConfigError, match=r"Evaluation\.measure returned .*; expected a finite number"):
        measure(woodshed.Evaluation(scenarios=["a"], measure=wrong), [ended(0)])


async def test_the_figures_of_an_evaluation_are_kept_and_shown(tmp_path: Path) -> None:
    scenarios = [f"s{n}" for n in range(10)]
    asked = woodshed.Evaluation(scenarios=scenarios, measure=lambda trajectory, scenario: 1.0)
    store = RunStore(tmp_path)
    for n in range(10):
        store.save_trajectory(
            f"before/scenario-{n}/0", ended(n, Failure(kind="ValueError", message="no") if n else None)[0]
        )
    text = io.StringIO()
    async with EngineClient("http://127.0.0.1:9") as client:
        context = RunContext(
            function=rollout(lambda _: None), client=client, store=store, policy=woodshed.Policy("m"),
            policy_name="policy", config=woodshed.TrainConfig(), start_version=0, semaphore=PrioritySemaphore(4),
        )  # fmt: skip
        with RunProgress(folder=tmp_path, steps=1, console=Console(file=text, width=200)) as progress:
            await evaluate(context, asked, "before", progress)
    health = EngineHealth(woodshed="0")
    reward = woodshed.FunctionReward(lambda t: 1.0)

    summary = summarise(store, [], health=health, seconds=0.0, peak_rss_mb=0.0, judge=reward)

    assert "held-out success before: 0.100, 1 of 10 (9 failed: ValueError), 95 % interval 0.0" in text.getvalue()
    assert (summary.success_before, summary.failed_before, summary.masked_before) == (0.1, 9, 0)
    assert (summary.success_after, summary.failed_after, summary.masked_after) == (None, None, None)
    store.close()


@pytest.mark.parametrize(
    ("trained", "held", "both"),
    [
        (["a", "b"], ["b", "c"], "1 of 2 held-out scenarios are also trained on \\(scenario-0\\)"),
        ([{"id": 1, "q": "x"}], [{"id": "other", "q": "x"}], "1 of 1 .*\\(other\\)"),
        ([{"id": 1, "q": "x"}], [{"id": 1, "q": "y"}], None),
        (["a"], ["b"], None),
    ],
)
def test_held_out_scenarios_that_are_trained_on_are_named(trained: Any, held: Any, both: str | None) -> None:
    warning = held_out_warning(trained, woodshed.Evaluation(scenarios=held, measure=lambda t, s: 1.0))

    assert (warning is None) if both is None else re.match(both, warning or "")
    assert held_out_warning(trained, None) is None


async def test_between_steps_success_is_measured_every_so_many_and_after_the_last_by_the_run(tmp_path: Path) -> None:
    asked = woodshed.Evaluation(scenarios=["a"], measure=lambda trajectory, scenario: 1.0, every=2)
    store, measured = RunStore(tmp_path), []
    for step in range(1, 7):
        store.save_trajectory(f"after-step-{step}/scenario-0/0", ended(step)[0])
    async with EngineClient("http://127.0.0.1:9") as client:
        context = RunContext(
            function=rollout(lambda _: None), client=client, store=store, policy=woodshed.Policy("m"),
            policy_name="policy", config=woodshed.TrainConfig(steps=6), start_version=0,
            semaphore=PrioritySemaphore(4),
        )  # fmt: skip
        with RunProgress(folder=tmp_path, steps=6, console=Console(quiet=True)) as progress:
            for step in range(1, 7):
                measured.append([t.rollout_id for t in await evaluate_between(context, asked, step, progress)])
            repeated = await evaluate_between(context, asked, 2, progress)
            unasked = await evaluate_between(context, None, 2, progress)

    assert measured == [[], ["2"], [], ["4"], [], []]
    assert (repeated, unasked) == ((), ())
    assert set(store.facts("success_")) == {"after_step_2", "after_step_4"}
    assert store.fact("interval_after_step_2") == pytest.approx([0.2065, 1.0], abs=1e-4)
    assert (store.fact("rollouts_after_step_2"), store.fact("failed_after_step_2")) == (1, 0)
    store.close()


def test_rollouts_of_one_scenario_are_one_cluster() -> None:
    evaluation = woodshed.Evaluation(scenarios=["a", "b"], measure=lambda trajectory, scenario: float(scenario == "a"))
    rollouts = [
        (trajectory(f"{scenario}{n}").model_copy(update={"scenario_id": scenario}), scenario)
        for scenario in "ab"
        for n in range(3)
    ]

    assert measure(evaluation, rollouts).clusters == ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
