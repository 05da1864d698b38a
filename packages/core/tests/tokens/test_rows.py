"""Promises of the fold: which tokens are trained, in which row, under which context.

Random rollouts append, edit, branch, fail and sample several answers. The log-probability of every sampled token
is unique, so a token can be recognised wherever it turns up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from woodshed.tokens import Row, build_rows, why_untrained
from woodshed.types import Completion, Failure, Message, TokenCall


def completion(
    token_ids: Sequence[int],
    *,
    first: int = 0,
    version: int = 0,
    index: int = 0,
    logprobs: Sequence[float] | None = None,
) -> Completion:
    """Return a completion whose log-probabilities are -1 - `first`, -2 - `first`, …"""
    told = tuple(-1.0 - first - k for k in range(len(token_ids))) if logprobs is None else tuple(logprobs)
    return Completion(
        index=index,
        message=Message(role="assistant", content="…"),
        token_ids=tuple(token_ids),
        logprobs=told,
        weight_versions=(version,) * len(token_ids),
    )


def call(call_id: str, prompt_ids: Sequence[int], *completions: Completion, **changes: Any) -> TokenCall:
    """Return a call at temperature 1."""
    told: dict[str, Any] = {"started_s": 0.0, "latency_s": 0.1, "messages": (), "sampling": {"temperature": 1.0}}
    return TokenCall(call_id=call_id, prompt_ids=tuple(prompt_ids), completions=completions, **{**told, **changes})


@dataclass
class Played:
    """One random rollout, and what the engine saw for each token that must be trained."""

    calls: list[TokenCall] = field(default_factory=list)
    untrained_call_ids: set[str] = field(default_factory=set)
    seen: dict[float, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    """Log-probability of a token → the context it was sampled in, and the token."""


TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
FATES = st.sampled_from(["fine"] * 6 + ["failed", "constrained", "superseded", "greedy", "nan"])


@st.composite
def rollouts(draw: st.DrawFn) -> Played:
    """Draw a rollout of up to ten calls over an alphabet so small that prefixes meet by chance."""
    played = Played()
    histories: list[tuple[int, ...]] = []
    for number in range(draw(st.integers(0, 10))):
        prompt = draw(TOKENS)
        if histories and draw(st.booleans()):
            history = draw(st.sampled_from(histories))
            # Cut short: the framework dropped the end of turn, or edited the history inside the sampled tokens.
            kept = draw(st.sampled_from([len(history), len(history), draw(st.integers(0, len(history)))]))
            prompt = history[:kept] + draw(st.one_of(st.just(()), TOKENS)) or prompt
        fate = draw(FATES)
        answers = draw(st.lists(TOKENS, min_size=1, max_size=3))
        histories += [prompt + answer for answer in answers]
        _play(played, number, prompt, answers, fate)
    return played


def _play(played: Played, number: int, prompt: tuple[int, ...], answers: list[tuple[int, ...]], fate: str) -> None:
    completions = [completion(a, first=1000 * number + 100 * k, index=k, version=number) for k, a in enumerate(answers)]
    if fate == "nan":
        completions[0] = completion(answers[0], logprobs=[float("nan")] * len(answers[0]))
    changes: dict[str, Any] = {"started_s": float(number)}
    if fate == "failed":
        changes |= {"error": Failure(kind="TimeoutError", message="gone")}
    if fate == "constrained":
        changes |= {"constrained": True}
    if fate == "greedy":
        changes |= {"sampling": {"temperature": 0.0}}
    if fate == "superseded":
        played.untrained_call_ids.add(f"c{number}")
    played.calls.append(call(f"c{number}", prompt, *completions, **changes))
    if fate in ("fine", "nan"):
        for done in completions[fate == "nan" :]:
            for k, (token, logprob) in enumerate(zip(done.token_ids, done.logprobs, strict=True)):
                played.seen[logprob] = (prompt + done.token_ids[:k], token)


def trained(row: Row) -> list[int]:
    return [token for token, is_trained in zip(row.token_ids, row.trained, strict=True) if is_trained]


@given(rollouts())
def test_every_sampled_token_is_trained_once_in_the_context_the_engine_saw(played: Played) -> None:
    rows = build_rows(played.calls, untrained_call_ids=played.untrained_call_ids)

    found = [
        (logprob, (row.token_ids[:k], row.token_ids[k]))
        for row in rows
        for k, logprob in enumerate(row.logprobs)
        if row.trained[k]
    ]
    assert len(found) == len(played.seen)
    assert dict(found) == played.seen


@given(rollouts())
def test_untrained_positions_hold_nothing(played: Played) -> None:
    for row in build_rows(played.calls, untrained_call_ids=played.untrained_call_ids):
        for k, is_trained in enumerate(row.trained):
            cells = (row.logprobs[k], row.weight_versions[k], row.temperatures[k], row.call_ids[k])
            assert all((cell is not None) == is_trained for cell in cells)


@given(rollouts())
def test_no_row_is_without_a_trained_token_and_none_starts_with_one(played: Played) -> None:
    for row in build_rows(played.calls, untrained_call_ids=played.untrained_call_ids):
        assert any(row.trained)
        assert not row.trained[0]


def test_appended_history_is_one_row() -> None:
    first = call("a", [1, 2], completion([3, 4]), started_s=1)
    second = call(
        "b", [1, 2, 3, 4, 5], completion([6], first=10, version=7), started_s=2, sampling={"temperature": 0.5}
    )

    assert build_rows([second, first]) == (
        Row(
            token_ids=(1, 2, 3, 4, 5, 6),
            trained=(False, False, True, True, False, True),
            logprobs=(None, None, -1.0, -2.0, None, -11.0),
            weight_versions=(None, None, 0, 0, None, 7),
            temperatures=(None, None, 1.0, 1.0, None, 0.5),
            call_ids=(None, None, "a", "a", None, "b"),
        ),
    )


def test_edited_history_forks_and_trains_the_old_tokens_only_once() -> None:
    first = call("a", [1, 2], completion([3, 4, 5]), started_s=1)
    second = call("b", [1, 2, 3, 4, 9], completion([6]), started_s=2)

    rows = build_rows([first, second])

    assert [row.token_ids for row in rows] == [(1, 2, 3, 4, 5), (1, 2, 3, 4, 9, 6)]
    assert [trained(row) for row in rows] == [[3, 4, 5], [6]]


def test_two_interleaved_agents_give_two_rows() -> None:
    calls = [
        call("a1", [1], completion([2]), started_s=1),
        call("b1", [7], completion([8]), started_s=2),
        call("a2", [1, 2, 3], completion([4]), started_s=3),
        call("b2", [7, 8, 9], completion([5]), started_s=4),
    ]

    assert [row.token_ids for row in build_rows(calls)] == [(1, 2, 3, 4), (7, 8, 9, 5)]


def test_longest_matching_row_is_continued() -> None:
    calls = [
        call("short", [1], completion([2]), started_s=1),
        call("long", [1], completion([2, 3]), started_s=2),
        call("next", [1, 2, 3, 4], completion([5]), started_s=3),
    ]

    assert [row.token_ids for row in build_rows(calls)] == [(1, 2), (1, 2, 3, 4, 5)]


def test_each_of_several_completions_can_be_continued() -> None:
    calls = [
        call("a", [1], completion([2]), completion([3], first=10, index=1), started_s=1),
        call("b", [1, 3, 4], completion([5]), started_s=2),
    ]

    assert [row.token_ids for row in build_rows(calls)] == [(1, 2), (1, 3, 4, 5)]


def test_equal_calls_are_two_calls() -> None:
    calls = [call("a", [1], completion([2]), started_s=1), call("b", [1], completion([2]), started_s=2)]

    assert [trained(row) for row in build_rows(calls)] == [[2], [2]]


def test_superseded_call_is_context_only() -> None:
    calls = [
        call("a", [1], completion([2]), started_s=1),
        call("b", [1, 2, 3], completion([4]), started_s=2),
    ]

    rows = build_rows(calls, untrained_call_ids={"a"})

    assert [row.token_ids for row in rows] == [(1, 2, 3, 4)]
    assert trained(rows[0]) == [4]


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (call("a", [1], error=Failure(kind="TimeoutError", message="")), "TimeoutError"),
        (call("a", [1], completion([2]), constrained=True), "constrained"),
        (call("a", [1], completion([2]), sampling={"temperature": 0}), "greedily"),
        (call("a", [], completion([2])), "no prompt ids"),
        (call("a", [1]), "no completion"),
        (call("a", [1], completion([])), "empty"),
        (call("a", [1], completion([2, 3], logprobs=[-1.0])), "2 tokens but 1 log-probabilities"),
        (call("a", [1], completion([2], logprobs=[float("-inf")])), "not finite"),
    ],
)
def test_call_that_cannot_be_trained_says_why(odd: object, reason: str) -> None:
    assert reason in (why_untrained(odd) or "")  # type: ignore[arg-type]
    assert build_rows([odd]) == ()  # type: ignore[list-item]


def test_call_without_a_named_temperature_was_sampled_at_one() -> None:
    (row,) = build_rows([call("a", [1], completion([2]), sampling={})])

    assert row.temperatures == (None, 1.0)
