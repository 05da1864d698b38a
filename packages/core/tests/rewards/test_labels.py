"""A one-label reply is read where it is plain which label is meant, and never guessed."""

from __future__ import annotations

import pytest

from woodshed.chat.model import Answer
from woodshed.rewards.label_prompt import FIRST_IS_BETTER, GRADES
from woodshed.rewards.labels import read_label


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("7", 7), ("**7**", 7), (" 7.\n", 7), ("Score: 7/9", 7), ("The grade is 7", 7), ("Grade 7\nIt is good.", 7),
        ('{"answer": "7"}', 7), ('{"score": 7}', 7), ('```json\n{"score": 3}\n```', 3), ("<think>4?</think>\n8", 8),
        ("7.5", None), ("7/10", None), ("10", None), ("-3", None), ("Score: -3", None), ("0.8", None), ("85 %", None),
        ("7-8", None), ("7\n\nScore: 2", None), ("acht", None), ("", None), ("I can't grade it", None),
        ("It makes 7 mistakes", None), ('{"a": 1, "b": 2}', None), ("[" * 100_000, None), ("９", None), ("⑦", None),
    ],
)  # fmt: skip
def test_a_grade(text: str, grade: int | None) -> None:
    reply = read_label(Answer(text=text), GRADES)

    assert reply.value == (None if grade is None else grade / 9)
    assert bool(reply.problems) == (grade is None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A", 1.0), ("**B**", 0.0), ("Attempt B", 0.0), ("The better attempt is A.", 1.0), ("Answer: B\nBecause.", 0.0),
        ("A good try", None), ("A or B", None), ("A/B", None), ("B. It beats A", None), ("a", None), ("C", None),
        ("Both", None), ("Better: neither", None),
    ],
)  # fmt: skip
def test_the_better_of_two(text: str, value: float | None) -> None:
    assert read_label(Answer(text=text), FIRST_IS_BETTER).value == value
