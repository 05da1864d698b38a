"""Marks are whole words of the text itself that the other text lacks, and nothing that is in both at one place."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from woodshed.view.differences import mark, word_marks

TEXTS = st.lists(st.sampled_from(["a", "lamp", " ", "\n", "🪔", "<b>", "4", ".", "é"]), max_size=12).map("".join)


def unmarked(text: str, marks: list[tuple[int, int]]) -> str:
    for start, end in reversed(marks):
        text = text[:start] + text[end:]
    return text


def is_subsequence(part: str, whole: str) -> bool:
    letters = iter(whole)
    return all(letter in letters for letter in part)


@given(TEXTS, TEXTS)
def test_what_is_not_marked_is_in_the_other_text_in_order(text: str, other: str) -> None:
    marks = word_marks(text, other)

    assert is_subsequence(unmarked(text, marks), other)
    assert all(0 <= a < b <= len(text) for a, b in marks)
    assert all(left[1] <= right[0] for left, right in pairwise(marks))


@given(TEXTS)
def test_equal_texts_have_no_marks(text: str) -> None:
    assert word_marks(text, text) == []


def test_a_text_too_long_to_compare_is_marked_whole() -> None:
    long = "word " * 5_000

    assert word_marks(long, long + "x") == [(0, len(long))]


def test_one_message_more_does_not_mark_those_that_follow() -> None:
    def says(text: str) -> dict[str, object]:
        return {"role": "assistant", "content": text}

    own, other = [says("one"), says("extra"), says("two")], [says("one"), says("two")]

    assert [m["same"] for m in mark(own, other)] == [True, False, True]


def test_another_tool_and_other_arguments_are_told_apart() -> None:
    def asks(name: str, arguments: str) -> dict[str, object]:
        return {"role": "assistant", "content": None, "requests": [{"name": name, "arguments": arguments}]}

    (tool,) = mark([asks("price", '{"item": "horn"}')], [asks("stock", '{"item": "horn"}')])
    (argument,) = mark([asks("price", '{"item": "horn"}')], [asks("price", '{"item": "tuba"}')])

    assert tool["requests"][0]["other_tool"] is True
    start, end = argument["requests"][0]["marks"][0]
    assert '{"item": "horn"}'[start:end] == "horn"
