"""Promises of group-relative advantages."""

from __future__ import annotations

import math
import statistics
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from woodshed.errors import ConfigError
from woodshed.rewards.advantage import batch_advantages, group_advantages, overlong_penalty, role_advantages

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


def test_batch_scale_divides_by_the_deviation_of_all_scores() -> None:
    groups = {"x": {"a": 1.0, "b": 0.0}, "y": {"c": 3.0, "d": 3.0}, "z": {"e": 2.0, "f": 1.0, "g": None}}
    found = batch_advantages(groups, scale="batch")
    unit = statistics.stdev([1.0, 0.0, 3.0, 3.0, 2.0, 1.0])

    assert found["x"].values == {"a": pytest.approx(0.5 / unit), "b": pytest.approx(-0.5 / unit)}
    assert found["y"].skipped is not None
    assert found["z"].values == {"e": pytest.approx(0.5 / unit), "f": pytest.approx(-0.5 / unit)}
    assert list(found["z"].quarantined) == ["g"]


@pytest.mark.parametrize("scale", ["none", "std"])
def test_other_scales_are_those_of_each_group(scale: Literal["none", "std"]) -> None:
    groups = {"x": {"a": 1.0, "b": 0.0}, "y": {"c": 5.0, "d": 3.0}}

    assert batch_advantages(groups, scale=scale) == {k: group_advantages(v, scale=scale) for k, v in groups.items()}


def test_batch_of_equal_scores_is_skipped_whole() -> None:
    found = batch_advantages({"x": {"a": 1.0, "b": 1.0}, "y": {"c": 1.0, "d": 1.0}}, scale="batch")

    assert all(a.skipped is not None and not a.values for a in found.values())


def test_each_role_is_compared_with_its_own() -> None:
    scores = {
        "a": {"planner": 1.0, "coder": 0.0},
        "b": {"planner": 0.0, "coder": 0.0},
        "c": {"planner": 0.5, "writer": 1.0},
    }

    # No coder is better than another, and the only writer has nobody to be compared with.
    assert role_advantages(scores) == {"a": {"planner": 0.5}, "b": {"planner": -0.5}, "c": {"planner": 0.0}}


def test_overlong_answers_lose_up_to_one() -> None:
    found = [overlong_penalty(n, longest=100, soft=20) for n in (10, 80, 90, 100, 500)]

    assert found == [0.0, 0.0, -0.5, -1.0, -1.0]
    with pytest.raises(ConfigError, match="soft is 0; expected 1 to longest"):
        overlong_penalty(1, longest=100, soft=0)
