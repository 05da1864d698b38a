"""From judged groups to an optimizer step: what failed or was not judged gives no gradient, never a reward of 0."""

from __future__ import annotations

import pytest
from builders import call, group, said, trajectory

from etude.training.loop import step_request
from etude.types import Failure


def test_advantages_are_relative_to_the_group() -> None:
    good, bad = trajectory("a", call(said("4"))), trajectory("b", call(said("5")))

    request = step_request("step-0", [group((good, 1.0), (bad, 0.0))], tolerance=1e-3)

    assert {r.rollout_id: r.advantage for r in request.rollouts} == {"a": pytest.approx(0.5), "b": pytest.approx(-0.5)}


def test_a_failed_rollout_is_left_out_and_does_not_count_as_zero() -> None:
    good, bad = trajectory("a"), trajectory("b")
    broken = trajectory("c", failed=Failure(kind="ConnectionError", message="gone"))

    request = step_request("step-0", [group((good, 1.0), (bad, 0.5), (broken, None))], tolerance=1e-3)

    assert {r.rollout_id: r.advantage for r in request.rollouts} == {
        "a": pytest.approx(0.25),
        "b": pytest.approx(-0.25),
    }


def test_a_group_without_a_verdict_is_masked_whole() -> None:
    unjudged = group((trajectory("a"), 1.0), (trajectory("b"), 0.0), error=Failure(kind="JudgeError", message="prose"))

    assert step_request("step-0", [unjudged], tolerance=1e-3).rollouts == ()


def test_equal_scores_train_nothing() -> None:
    flat = group((trajectory("a"), 0.7), (trajectory("b"), 0.7004))

    assert step_request("step-0", [flat], tolerance=1e-3).rollouts == ()


def test_an_answer_the_framework_threw_away_is_not_trained() -> None:
    kept = call(said("4"), call_id="kept")
    thrown = call(said("?"), call_id="thrown", superseded=True)
    pair = group((trajectory("a", thrown, kept), 1.0), (trajectory("b"), 0.0))

    assert step_request("step-0", [pair], tolerance=1e-3).rollouts[0].untrained_call_ids == ("thrown",)
