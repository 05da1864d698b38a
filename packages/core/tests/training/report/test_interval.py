"""How sure a success is: values of the literature, and what repeated rollouts of one scenario may promise."""

from __future__ import annotations

import random

import pytest

from woodshed.training.report.interval import design_effect, interval


@pytest.mark.parametrize(
    ("successes", "rollouts", "ends"),
    # Newcombe 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E), table I, method 3
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_one_rollout_of_each_scenario_gives_the_published_wilson_interval(
    successes: int, rollouts: int, ends: tuple[float, float]
) -> None:
    assert interval([[float(k < successes)] for k in range(rollouts)]) == pytest.approx(ends, abs=5e-5)


def test_rollouts_that_only_repeat_their_scenario_count_once() -> None:
    once = [[1.0]] * 7 + [[0.0]] * 3

    assert design_effect([c * 4 for c in once]) == pytest.approx(4.0)
    assert interval([c * 4 for c in once]) == pytest.approx(interval(once))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_succeed_or_fail_every_scenario_counts_once(value: float) -> None:
    assert interval([[value] * 8] * 10) == interval([[value]] * 10)


def test_rollouts_of_one_scenario_alone_say_no_more_than_one() -> None:
    assert interval([[1.0, 0.0] * 8]) == pytest.approx((0.0546, 0.9454), abs=1e-4)


def test_rollouts_that_differ_within_their_scenario_count_each() -> None:
    assert design_effect([[1.0, 0.0]] * 10) == 1.0


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw, covered, naive = random.Random(0), 0, 0
    for _ in range(400):
        clusters = []
        for _ in range(30):
            p = draw.betavariate(0.6, 0.4)  # correlation within a scenario: 1 / (0.6 + 0.4 + 1) = 0.5
            clusters.append([float(draw.random() < p) for _ in range(4)])
        for is_clustered in (True, False):
            low, high = interval(clusters if is_clustered else [[v] for c in clusters for v in c]) or (0.0, 0.0)
            covered, naive = (
                covered + (is_clustered and low <= 0.6 <= high),
                naive + (not is_clustered and low <= 0.6 <= high),
            )

    assert 0.92 <= covered / 400 <= 0.98
    assert naive / 400 < 0.88


def test_a_measure_that_is_no_yes_or_no_gets_students_interval_of_the_scenarios() -> None:
    # mean 0.5, standard deviation of the scenarios' means 0.4, t(2) = 4.303
    half = 4.30265 * 0.4 / 3**0.5

    assert interval([[0.1], [0.5], [0.9]]) == pytest.approx((0.5 - half, 0.5 + half))
    assert interval([[0.0, 0.2], [0.5, 0.5], [0.8, 1.0]]) == pytest.approx((0.5 - half, 0.5 + half))


@pytest.mark.parametrize("clusters", [[], [[]], [[0.2, 0.4]], [[0.25], [0.25]]])
def test_values_that_do_not_say_how_sure_they_are_get_none(clusters: list[list[float]]) -> None:
    assert interval(clusters) is None
