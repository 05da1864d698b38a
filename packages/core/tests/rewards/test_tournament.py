"""Comparisons in pairs become scores by Bradley-Terry, and large groups are compared in a tournament."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from woodshed.rewards.tournament import Pair, all_pairs, next_round, rounds_of, win_rates


def played(worth: list[float], seed: int = 0) -> dict[Pair, list[float]]:
    """All results of the rounds that a group of this size gets; the better attempt always wins."""
    order = random.Random(seed).sample(range(len(worth)), len(worth))
    results: dict[Pair, list[float]] = {}
    for _ in range(rounds_of(len(worth)) or 1):
        pairs = next_round(order, results) if rounds_of(len(worth)) else all_pairs(len(worth))
        assert not set(pairs) & set(results)
        results |= {(i, j): [0.5 + 0.5 * ((worth[i] > worth[j]) - (worth[i] < worth[j]))] * 2 for i, j in pairs}
    return results


def test_the_fit_is_a_maximum_of_the_likelihood_found_by_a_slow_twin() -> None:
    """Plain gradient ascent on the log-likelihood, with the virtual tie written out."""
    results = {(0, 1): [0.9, 0.7], (0, 2): [1.0, 1.0], (1, 2): [0.5, 0.8], (2, 3): [0.2, 0.4]}
    theta = [0.0] * 4
    for _ in range(20_000):
        slope = [0.5 - 1 / (1 + math.exp(-t)) for t in theta]
        for (i, j), values in results.items():
            for value in values:
                error = value - 1 / (1 + math.exp(theta[j] - theta[i]))
                slope[i] += error
                slope[j] -= error
        theta = [t + 0.05 * s for t, s in zip(theta, slope, strict=True)]
    expected = [sum(1 / (1 + math.exp(theta[j] - theta[i])) for j in range(4) if j != i) / 3 for i in range(4)]

    assert win_rates(4, results) == pytest.approx(expected, abs=1e-5)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(0, 3))
def test_scores_lie_between_0_and_1_and_follow_a_judge_that_is_always_right(worth: list[int], seed: int) -> None:
    rates = win_rates(len(worth), played([float(w) for w in worth], seed))

    assert all(0 < rate < 1 for rate in rates)
    assert sum(rates) == pytest.approx(len(worth) / 2)
    if not rounds_of(len(worth)):
        for i, j in all_pairs(len(worth)):
            assert math.isclose(rates[i], rates[j], abs_tol=1e-4) or (rates[i] > rates[j]) == (worth[i] > worth[j])


@pytest.mark.parametrize("count", [2, 3, 7, 8, 9, 16, 31, 64])
def test_cost_grows_as_n_log_n_and_nobody_is_left_out(count: int) -> None:
    results = played([float(n) for n in range(count)])
    rates = win_rates(count, results)

    assert len(results) <= min(math.comb(count, 2), count * math.ceil(math.log2(count)))
    assert {i for pair in results for i in pair} == set(range(count))
    kept = sum(rates[i] < rates[j] for i, j in all_pairs(count))
    assert kept / math.comb(count, 2) > 0.95


def test_ties_are_equal_scores() -> None:
    assert win_rates(3, {pair: [1.0, 0.0] for pair in all_pairs(3)}) == pytest.approx([0.5, 0.5, 0.5])
