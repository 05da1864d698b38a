"""Whatever an agent does, what is recorded of it can be stored: any Python object in, plain JSON out."""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from woodshed.capture import Rollout, ToolSpan, assemble
from woodshed.capture.plain import to_plain, to_text
from woodshed.types import SealedSession, Trajectory


class Store:
    """What a framework injects into a tool's arguments."""


class Hostile:
    """An object that cannot be looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@dataclasses.dataclass
class Point:
    x: int
    inner: Any = None


def cycle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(100_000):
        made = [made]
    return made


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"store": Store(), "n": 1}, {"store": "<Store>", "n": 1}),
        (object(), "<object>"),
        (Hostile(), "<Hostile>"),
        ("half \ud83d a pair", "half \ufffd a pair"),
        ({"\udc00": {"\udc00"}}, {"\ufffd": ["\ufffd"]}),
        ("\ud83d\ude00", "😀"),
        (Point(1, Point(2)), {"x": 1, "inner": {"x": 2, "inner": None}}),
        (datetime.date(2026, 11, 28), "2026-11-28"),
        (b"\xff\xfe", "__4="),
        (cycle(), "<list>"),
        (deep(), "<list>"),
        ((1, 2), [1, 2]),
        (len, "<builtin_function_or_method>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_kept_as_plain_json(value: Any, plain: Any) -> None:
    assert to_plain(value) == plain


OBJECTS = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.dates(), st.complex_numbers(),
        st.text(st.characters()), st.text(st.characters(categories=["Cs"])),
        st.builds(object), st.builds(Store), st.builds(Hostile), st.just(len), st.just(int), st.builds(cycle),
    ),
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner), st.builds(Point, st.integers(), inner), st.dictionaries(st.text(), inner),
        st.dictionaries(st.one_of(st.integers(), st.none(), st.text(st.characters(categories=["Cs"]))), inner),
        st.frozensets(st.one_of(st.integers(), st.text(st.characters(categories=["Cs"])))),
    ),
    max_leaves=8,
)  # fmt: skip


@given(arguments=OBJECTS, result=st.text(st.characters()), output=OBJECTS, said=st.text(st.characters()))
def test_any_object_in_a_rollout_can_be_stored_and_read_again(
    arguments: Any, result: str, output: Any, said: str
) -> None:
    rollout = Rollout(base_url="http://127.0.0.1:1/v1", secret="s")
    with pytest.raises(ValueError), ToolSpan(rollout, tool_call_id="c\ud800", name=said, arguments=arguments):
        raise ValueError(said)
    with ToolSpan(rollout, tool_call_id=None, name="look", arguments=arguments) as span:
        span.ended(result, is_error=True)

    made = assemble(rollout, SealedSession(rollout_id=rollout.rollout_id, calls=()), status="completed", output=output)

    stored = made.model_dump_json()
    assert json.loads(stored.encode())["tool_calls"][1]["name"] == "look"
    assert Trajectory.model_validate_json(stored).model_dump_json() == stored


@given(st.one_of(st.text(st.characters()), OBJECTS))
def test_any_object_becomes_text(value: Any) -> None:
    to_text(value).encode()
