"""Promises of the batch: who counts, who is quarantined and why."""

from __future__ import annotations

import math

import pytest

from woodshed.engine.trainer.batch import build_batch
from woodshed.types import Completion, Failure, Message, SealedSession, StepRequest, TokenCall, WeightedRollout


def call(call_id: str, prompt: tuple[int, ...], sampled: tuple[int, ...]) -> TokenCall:
    answer = Completion(
        index=0,
        message=Message(role="assistant"),
        token_ids=sampled,
        logprobs=(-1.0,) * len(sampled),
        weight_versions=(0,) * len(sampled),
    )
    return TokenCall(
        call_id=call_id, started_s=0.0, latency_s=0.1, messages=(), prompt_ids=prompt, completions=(answer,)
    )


def sessions(**calls: tuple[TokenCall, ...]) -> dict[str, SealedSession]:
    return {name: SealedSession(rollout_id=name, calls=c) for name, c in calls.items()}


def asked(*rollouts: WeightedRollout) -> StepRequest:
    return StepRequest(step_id="s", rollouts=rollouts)


def test_rollout_with_zero_advantage_counts_but_does_not_learn() -> None:
    recorded = sessions(a=(call("1", (1,), (2, 3)),), b=(call("2", (1,), (4,)),))
    batch = build_batch(
        asked(WeightedRollout(rollout_id="a", advantage=0.5), WeightedRollout(rollout_id="b", advantage=0.0)), recorded
    )

    assert [r.rollout_id for r in batch.rollouts] == ["a", "b"]
    assert [r.rollout_id for r in batch.learning] == ["a"]
    assert batch.tokens == 3


@pytest.mark.parametrize("advantage", [math.nan, math.inf, -math.inf])
def test_advantage_that_is_not_finite_is_quarantined(advantage: float) -> None:
    batch = build_batch(
        asked(WeightedRollout(rollout_id="a", advantage=advantage)), sessions(a=(call("1", (1,), (2,)),))
    )

    assert batch.rollouts == ()
    assert batch.quarantined == {"a": f"advantage is {advantage}"}


def test_rollout_that_sampled_nothing_trainable_says_why() -> None:
    failed = call("1", (1,), (2,)).model_copy(update={"error": Failure(kind="TimeoutError", message="")})
    thrown = call("2", (1,), (2,))
    batch = build_batch(
        asked(
            WeightedRollout(rollout_id="a", advantage=1.0),
            WeightedRollout(rollout_id="b", advantage=1.0, untrained_call_ids=("2",)),
            WeightedRollout(rollout_id="c", advantage=1.0),
            WeightedRollout(rollout_id="d", advantage=1.0),
        ),
        sessions(a=(failed,), b=(thrown,), c=()),
    )

    assert batch.quarantined == {
        "a": "no trained tokens: call failed: TimeoutError",
        "b": "no trained tokens: the framework threw the answer away",
        "c": "no trained tokens: no call was recorded",
        "d": "no sealed session",
    }


def test_calls_that_are_context_only_are_counted() -> None:
    recorded = sessions(a=(call("1", (1,), (2,)), call("2", (1, 2, 3), (4,))))
    batch = build_batch(asked(WeightedRollout(rollout_id="a", advantage=1.0, untrained_call_ids=("1",))), recorded)

    assert batch.untrained_calls == 1
    assert batch.tokens == 1


def test_calls_of_a_role_have_an_advantage_of_their_own() -> None:
    recorded = sessions(a=(call("1", (1,), (2,)), call("2", (1, 2, 3), (4,))), b=(call("3", (1,), (2,)),))
    batch = build_batch(
        asked(
            WeightedRollout(rollout_id="a", advantage=0.0, call_advantages={"2": -0.5}),
            WeightedRollout(rollout_id="b", advantage=0.0, call_advantages={"x": 1.0}),
        ),
        recorded,
    )
    (first,) = batch.learning

    assert first.rollout_id == "a"
    assert first.advantages(first.rows[0]) == [0.0, 0.0, 0.0, -0.5]


def test_call_advantage_that_is_not_finite_is_quarantined() -> None:
    weighted = WeightedRollout(rollout_id="a", advantage=1.0, call_advantages={"1": math.nan})
    batch = build_batch(asked(weighted), sessions(a=(call("1", (1,), (2,)),)))

    assert batch.quarantined == {"a": "advantage is nan"}


def test_rollout_learns_by_its_own_advantage_or_that_of_a_call_that_was_trained() -> None:
    recorded = sessions(a=(call("1", (1,), (2, 3)),))

    def learns(advantage: float, **of_calls: float) -> bool:
        weighted = WeightedRollout(rollout_id="a", advantage=advantage, call_advantages=of_calls)
        return bool(build_batch(asked(weighted), recorded).learning)

    assert [learns(0.5), learns(0.0), learns(0.5, **{"1": 0.0}), learns(0.0, **{"1": -1.0})] == [
        True,
        False,
        False,
        True,
    ]
