"""Promises of group-relative advantages."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.rewards.advantage import group_advantages

SCORES = st.dictionaries(st.text(max_size=3), st.floats(min_value=-1e6, max_value=1e6), min_size=2, max_size=12)


def test_advantage_is_score_less_group_mean() -> None:
    found = group_advantages({"a": 1.0, "b": 0.5, "c": 0.0})

    assert found.values == {"a": 0.5, "b": 0.0, "c": -0.5}
    assert found.quarantined == {}
    assert found.skipped is None


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_unusable_score_is_quarantined_and_never_counts_as_zero(bad: float | None) -> None:
    found = group_advantages({"a": 1.0, "bad": bad, "b": 0.0})

    assert found.values == {"a": 0.5, "b": -0.5}
    assert list(found.quarantined) == ["bad"]


def test_equal_scores_within_tolerance_skip_the_group() -> None:
    found = group_advantages({"a": 0.3, "b": 0.1 + 0.2, "c": 0.3 + 5e-7})

    assert found.values == {}
    assert found.skipped == "all 3 scores equal within 1e-06"


def test_spread_beyond_tolerance_is_kept() -> None:
    assert group_advantages({"a": 0.3, "b": 0.301}, tolerance=1e-4).skipped is None
    assert group_advantages({"a": 0.3, "b": 0.301}, tolerance=1e-2).skipped is not None


@pytest.mark.parametrize("scores", [{}, {"a": 1.0}, {"a": 1.0, "b": None}])
def test_fewer_than_two_usable_scores_skip_the_group(scores: dict[str, float | None]) -> None:
    found = group_advantages(scores)

    assert found.values == {}
    assert found.skipped is not None and "2 are needed" in found.skipped


def test_std_scale_divides_by_sample_deviation() -> None:
    found = group_advantages({"a": 1.0, "b": 0.0}, scale="std")

    assert found.values == {"a": pytest.approx(0.5**0.5), "b": pytest.approx(-(0.5**0.5))}


@given(SCORES)
def test_advantages_sum_to_zero_and_keep_the_order(scores: dict[str, float]) -> None:
    found = group_advantages(scores)

    assert math.fsum(found.values.values()) == pytest.approx(0, abs=1e-6 * max(1.0, *map(abs, scores.values())))
    assert all(found.values[a] <= found.values[b] for a in found.values for b in found.values if scores[a] <= scores[b])
