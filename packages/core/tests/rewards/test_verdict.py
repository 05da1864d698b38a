"""A reply is a verdict by id, or it is none: nothing is guessed, and every broken rule is said."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from woodshed.rewards.verdict import AttemptScore, read_verdict


def entry(id: Any, score: Any = 0.5, explanation: Any = "why") -> dict[str, Any]:
    return {"id": id, "explanation": explanation, "score": score}


def reply(*entries: Any) -> str:
    return json.dumps({"scores": list(entries)})


GOOD = reply(entry("A", 0.9), entry("B", 0))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"Here is my verdict.\n```json\n{GOOD}\n```\nHope that {{helps}}!",
        f"A is {{clearly}} better.\n\n{GOOD}",
        f"<think>Maybe {reply(entry('A', 0.1), entry('B', 0.2))}? No.</think>{GOOD}",
        f"{GOOD}\n{GOOD}",
        reply(entry("B", 0), entry("A", 0.9)),
    ],
    ids=["bare", "fenced", "prose", "thinking", "twice the same", "reordered"],
)
def test_a_verdict_is_found_and_read_by_id(text: str) -> None:
    reading = read_verdict(text, ["A", "B"])

    assert reading.problems == ()
    assert reading.scores == {
        "A": AttemptScore(score=0.9, explanation="why"),
        "B": AttemptScore(score=0.0, explanation="why"),
    }


DRAFT = reply(entry("A", 0.1), entry("B", 0.2))
TAGS = [
    ("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<Thought>", "</Thought>"), ("[THINK]", "[/THINK]"),
    ("<reasoning>", "</reasoning>"), ("◁think▷", "◁/think▷"), ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"), ("", "</think>"),
]  # fmt: skip


@pytest.mark.parametrize(("begin", "end"), TAGS)
def test_a_draft_in_the_thinking_is_no_verdict(begin: str, end: str) -> None:
    for text in (
        f"{begin}Maybe {DRAFT}. No.{end}{GOOD}",
        f"{begin}{{ {DRAFT} \n{end}\n\n{GOOD}",
        f"{begin}{end}{GOOD}",
    ):
        assert {i: s.score for i, s in read_verdict(text, ["A", "B"]).scores.items()} == {"A": 0.9, "B": 0.0}


@pytest.mark.parametrize("text", [f"<think>{DRAFT}", f" \n[THINK]Maybe {DRAFT}", f"{DRAFT}</think>", "<think>"])
def test_thinking_that_never_ends_in_a_verdict_holds_none(text: str) -> None:
    assert read_verdict(text, ["A", "B"]).problems == ("the reply holds thinking only, and no verdict after it",)


def test_a_tag_that_the_verdict_quotes_ends_no_thinking() -> None:
    quoting = reply(entry("A", 0.9, f"It wrote </think> and {DRAFT}"), entry("B", 0))
    for text in (quoting, f"<think>{DRAFT}</think>{quoting}"):
        assert {i: s.score for i, s in read_verdict(text, ["A", "B"]).scores.items()} == {"A": 0.9, "B": 0.0}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the reply is empty"),
        ("A is the best of them.", "no JSON object; it begins 'A is the best of them.'"),
        (GOOD[:-20], "the JSON is cut or malformed"),
        ("{'scores': []}", "the JSON is cut or malformed at character 1"),
        ('{"A": 0.9, "B": 0}', "no key 'scores'"),
        ('{"scores": {"A": 0.9, "B": 0}}', "expected a list"),
        (reply(entry("A")), "no score for 'B'"),
        (reply(entry("A"), entry("B"), entry("A")), "'A' is scored 2 times"),
        (reply(entry("A"), entry("B"), entry("C")), "entry 3 scores attempt 'C', which does not exist"),
        (reply(entry("A"), entry("b")), "attempt 'b', which does not exist"),
        (reply(entry("A"), entry(2)), "entry 2 is"),
        (reply(entry("A"), 0.5), "entry 2 is 0.5"),
        (reply(entry("A", 95), entry("B")), "the score of 'A' is 95, outside 0 to 1"),
        (reply(entry("A", -0.1), entry("B")), "the score of 'A' is -0.1, outside 0 to 1"),
        (reply(entry("A", math.nan), entry("B")), "the score of 'A' is nan, which is not finite"),
        (reply(entry("A", math.inf), entry("B")), "the score of 'A' is inf, which is not finite"),
        (reply(entry("A", "0.9"), entry("B")), "the score of 'A' is '0.9'; expected a number"),
        (reply(entry("A", True), entry("B")), "the score of 'A' is True; expected a number"),
        (reply(entry("A", None), entry("B")), "the score of 'A' is None; expected a number"),
        (reply({"id": "A", "explanation": ""}, entry("B")), "the score of 'A' is missing"),
        (reply({"id": "A", "score": 1}, entry("B")), "the explanation of 'A' is missing"),
        (GOOD.replace('"score": 0.9', '"score": 0.1, "score": 0.9'), "'A' has the key 'score' more than once"),
        ('{"scores": [], ' + GOOD[1:], "the object has the key 'scores' more than once"),
        (GOOD + reply(entry("A", 0), entry("B", 1)), "2 different JSON objects with 'scores'"),
        (GOOD.replace("0.9", "1e999"), "not finite"),
        (GOOD.replace("0.9", "9" * 5000), "cannot be read"),
        ('{"scores": ' + "[" * 100_000, "nested too deeply"),
        ("x" * 1_000_001, "1000001 characters"),
    ],
)
def test_a_broken_rule_is_named_and_no_score_is_left(text: str, problem: str) -> None:
    reading = read_verdict(text, ["A", "B"])

    assert reading.scores == {}
    assert problem in "; ".join(reading.problems)


def test_every_broken_rule_is_named_at_once() -> None:
    reading = read_verdict(reply(entry("A", 95), entry("A", 0.5), entry("Z")), ["A", "B", "C"])

    assert reading.problems == (
        "the score of 'A' is 95, outside 0 to 1",
        "entry 3 scores attempt 'Z', which does not exist",
        "attempt 'A' is scored 2 times; expected once",
        "no score for 'B', 'C'",
    )


def test_a_flood_of_problems_is_cut_short() -> None:
    reading = read_verdict(reply(*(entry(f"X{n}") for n in range(500))), ["A"])

    assert len(reading.problems) == 21
    assert reading.problems[-1] == "and 481 more problems"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(
    st.dictionaries(st.sampled_from("ABCDEFGH"), st.floats(0, 1), min_size=2),
    st.randoms(use_true_random=False),
    st.text(alphabet=st.characters(exclude_characters="{}")),
)
def test_scores_are_never_taken_by_place(scores: dict[str, float], draw: random.Random, prose: str) -> None:
    listed = list(scores.items())
    draw.shuffle(listed)

    reading = read_verdict(prose.replace("</think>", "") + reply(*(entry(i, s) for i, s in listed)), sorted(scores))

    assert {i: m.score for i, m in reading.scores.items()} == scores


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["A", "B", "C", "why"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["scores", "id", "score", "explanation"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(st.text() | JSON.map(json.dumps) | st.lists(JSON, max_size=3).map(lambda found: json.dumps({"scores": found})))
@example("{" * 5000)
@example('{"a":' * 5000)
def test_any_reply_is_either_whole_or_refused(text: str) -> None:
    reading = read_verdict(text, ["A", "B"])

    if reading.problems:
        assert reading.scores == {}
    else:
        assert set(reading.scores) == {"A", "B"}
        assert all(0 <= mark.score <= 1 for mark in reading.scores.values())
