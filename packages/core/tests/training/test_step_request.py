"""From judged groups to an optimizer step: what failed or was not judged gives no gradient, never a reward of 0."""

from __future__ import annotations

import pytest
from builders import call, group, said, trajectory

from woodshed.training.config import AdvantageSettings
from woodshed.training.step_request import is_flat, split_stale, step_request
from woodshed.types import Failure, Group, ModelCall


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


def test_a_score_the_judge_gave_a_failed_rollout_does_not_move_the_mean() -> None:
    broken = trajectory("c", failed=Failure(kind="ConnectionError", message="gone"))
    judged = group((trajectory("a"), 1.0), (trajectory("b"), 0.0), (broken, 0.0))

    found = {r.rollout_id: r.advantage for r in step_request("s", [judged], 1e-3).rollouts}

    assert found == {"a": pytest.approx(0.5), "b": pytest.approx(-0.5)}


# Scores 1, 0, .6 and 0: the first group deviates by the root of .5, and all of them by that of .72 / 3.
@pytest.mark.parametrize(("scale", "unit"), [("none", 1.0), ("std", 0.5**0.5), ("batch", 0.24**0.5)])
def test_advantages_are_scaled_as_the_settings_say(scale: str, unit: float) -> None:
    groups = [
        group((trajectory("a"), 1.0), (trajectory("b"), 0.0), group_id="0/x"),
        group((trajectory("c"), 0.6), (trajectory("d"), 0.0), group_id="0/y"),
    ]

    found = step_request("s", groups, 1e-3, AdvantageSettings(scale=scale)).rollouts

    assert {r.rollout_id: r.advantage for r in found}["a"] == pytest.approx(0.5 / unit)


def test_an_overlong_answer_loses_score_before_it_is_compared() -> None:
    brief = trajectory("a", call(said("4"), token_ids=(7,) * 6))
    long = trajectory("b", call(said("4 …"), token_ids=(7,) * 9))
    settings = AdvantageSettings(overlong_longest=10, overlong_soft=4)
    pair = group((brief, 0.8), (long, 0.8))

    found = {r.rollout_id: r.advantage for r in step_request("s", [pair], 1e-3, settings).rollouts}

    assert found == {"a": pytest.approx(0.375), "b": pytest.approx(-0.375)}
    assert is_flat(pair, 1e-3) and not is_flat(pair, 1e-3, settings)


def _by(agent: str, call_id: str) -> ModelCall:
    made = call(said(call_id), call_id=call_id)
    assert made.note is not None
    return made.model_copy(update={"note": made.note.model_copy(update={"agent": agent})})


def test_each_agent_is_compared_with_itself_where_it_took_part() -> None:
    both = trajectory("a", _by("planner", "a1"), _by("coder", "a2"))
    planner = trajectory("b", _by("planner", "b1"))
    coded = trajectory("c", _by("planner", "c1"), _by("coder", "c2"))
    trio = group((both, 1.0), (planner, 0.0), (coded, 0.5))

    found = step_request("s", [trio], 1e-3, AdvantageSettings(per="agent")).rollouts

    assert [r.call_advantages for r in found] == [
        {"a1": pytest.approx(0.5), "a2": pytest.approx(0.25)},
        {"b1": pytest.approx(-0.5)},
        {"c1": pytest.approx(0.0), "c2": pytest.approx(-0.25)},
    ]


def test_an_agents_own_score_stands_in_the_place_of_the_rollouts() -> None:
    pair = [trajectory(i, _by("planner", f"{i}1"), _by("coder", f"{i}2")) for i in "ab"]
    judged = group((pair[0], 0.5), (pair[1], 0.5))
    assert judged.judgement is not None
    scores = [
        s.model_copy(update={"agents": {"coder": v}}) for s, v in zip(judged.judgement.scores, (1.0, 0.0), strict=True)
    ]
    judged = judged.model_copy(update={"judgement": judged.judgement.model_copy(update={"scores": tuple(scores)})})

    found = step_request("s", [judged], 1e-3, AdvantageSettings(per="agent")).rollouts

    # All planners are as good as each other, so nothing is learned from what they said.
    assert [r.call_advantages for r in found] == [{"a1": 0.0, "a2": 0.5}, {"b1": 0.0, "b2": -0.5}]
    assert step_request("s", [judged], 1e-3).rollouts == ()


def _sampled_at(name: str, *versions: int) -> Group:
    made = call(said("4"), token_ids=(7,) * len(versions))
    (answer,) = made.tokens.completions
    tokens = made.tokens.model_copy(update={"completions": (answer.model_copy(update={"weight_versions": versions}),)})
    return group((trajectory(name, made.model_copy(update={"tokens": tokens})), 1.0), group_id=name)


def test_a_group_with_one_token_that_is_too_old_is_dropped_whole() -> None:
    groups = [_sampled_at("new", 4, 4), _sampled_at("mixed", 3, 4), _sampled_at("old", 2, 4)]

    def kept(max_staleness: int) -> list[str]:
        fresh, stale = split_stale(groups, version=4, max_staleness=max_staleness)
        assert len(fresh) + len(stale) == 3
        return [g.group_id for g in fresh]

    assert [kept(n) for n in (0, 1, 2)] == [["new"], ["new", "mixed"], ["new", "mixed", "old"]]


def test_overlong_filtering_masks_rollouts_with_a_cut_answer_and_leaves_them_out_of_the_mean() -> None:
    whole = trajectory("a"), trajectory("b")
    cut = trajectory("c", call(said("4"), call_id="c1"), call(said("…"), call_id="c2", finish_reason="length"))
    redone = trajectory("d", call(said("…"), finish_reason="length", superseded=True), call(said("4"), call_id="d2"))
    judged = group((whole[0], 1.0), (whole[1], 0.0), (cut, 0.0), (redone, 0.5))

    found = step_request("s", [judged], 1e-3, AdvantageSettings(overlong_filtering=True)).rollouts

    assert {r.rollout_id: r.advantage for r in found} == {"a": 0.5, "b": -0.5, "d": 0.0}
    assert "c" in {r.rollout_id for r in step_request("s", [judged], 1e-3).rollouts}
    assert is_flat(
        group((whole[0], 1.0), (whole[1], 1.0), (cut, 0.0)), 1e-3, AdvantageSettings(overlong_filtering=True)
    )


@pytest.mark.parametrize(("scores", "lowest"), [((1.0, 0.5), 0.0), ((1.0, -2.0), -2.0)])
def test_a_rollout_that_outgrew_the_context_counts_as_a_failure_where_asked_for(
    scores: tuple[float, float], lowest: float
) -> None:
    outgrown = trajectory(
        "c", call(said("…")), failed=Failure(kind="BadRequestError", message="long", cause="overflow")
    )
    broken = trajectory("d", call(said("…")), failed=Failure(kind="ValueError", message="no"))
    judged = group((trajectory("a"), scores[0]), (trajectory("b"), scores[1]), (outgrown, None), (broken, None))

    found = step_request("s", [judged], 1e-3, AdvantageSettings(overflowed="fail")).rollouts

    mean = (sum(scores) + lowest) / 3
    assert {r.rollout_id: r.advantage for r in found}["c"] == pytest.approx(lowest - mean)
    assert {r.rollout_id for r in found} == {"a", "b", "c"}
    assert {r.rollout_id for r in step_request("s", [judged], 1e-3).rollouts} == {"a", "b"}
