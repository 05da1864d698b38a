"""Which replica a session's calls go to."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from woodshed.engine.gateway.placement import SLACK, Placement


def idle(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 0)


ABC = idle("a", "b", "c")


def test_a_session_stays_where_its_first_call_went() -> None:
    placement = Placement()
    first = {f"rollout-{n}": placement.choose(f"rollout-{n}", ABC) for n in range(50)}
    later = {session: placement.choose(session, ABC) for session in reversed(first)}

    assert later == first
    assert placement.moved == 0


def test_the_same_session_is_placed_alike_by_every_engine() -> None:
    assert [Placement().choose(f"r{n}", ABC) for n in range(20)] == [
        Placement().choose(f"r{n}", ABC) for n in range(20)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=8), unique=True, max_size=60), st.integers(1, 6))
def test_no_replica_has_much_more_than_its_share(sessions: list[str], replicas: int) -> None:
    placement, able = Placement(), idle(*"abcdef"[:replicas])
    counts: Counter[str] = Counter()
    for number, session in enumerate(sessions, 1):
        counts[placement.choose(session, able)] += 1

        assert max(counts.values()) <= math.ceil(SLACK * number / replicas)
    assert counts == placement.sessions()


def test_the_death_of_a_replica_moves_its_own_sessions_and_no_others() -> None:
    placement = Placement()
    before = {f"r{n}": placement.choose(f"r{n}", ABC) for n in range(60)}
    after = {session: placement.choose(session, idle("a", "b")) for session in before}
    back = {session: placement.choose(session, ABC) for session in before}

    lost = {session for session, replica in before.items() if replica == "c"}
    assert {session for session in before if after[session] != before[session]} == lost
    assert back == after  # where its tokens are in the cache by now
    assert placement.moved == len(lost)
    spread = Counter(after.values())
    assert max(spread.values()) <= math.ceil(SLACK * 60 / 2)


def test_a_session_leaves_a_replica_that_is_far_ahead_of_the_others_and_stays_away() -> None:
    placement = Placement()
    home = placement.choose("r", ABC)
    others = sorted(set(ABC) - {home})

    assert placement.choose("r", {home: 7, others[0]: 0, others[1]: 0}) == home
    assert placement.choose("r", {home: 15, others[0]: 8, others[1]: 8}) == home
    assert (away := placement.choose("r", {home: 8, others[0]: 0, others[1]: 0})) in others
    assert placement.choose("r", ABC) == away


def test_a_session_that_has_ended_gives_its_place_to_another() -> None:
    placement = Placement()
    for number in range(30):
        placement.choose(f"r{number}", ABC)
        placement.leave(f"r{number}")

    assert placement.sessions() == {}


@pytest.mark.parametrize("in_flight", [{"a": 2, "b": 1, "c": 3}, {"a": 2, "b": 1}])
def test_a_call_of_no_rollout_goes_where_least_is_to_do(in_flight: dict[str, int]) -> None:
    assert Placement().choose(None, in_flight) == "b"


def test_sessions_that_were_never_sealed_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("woodshed.engine.gateway.placement._MOST", 10)
    placement = Placement()
    for number in range(100):
        placement.choose(f"r{number}", ABC)

    assert sum(placement.sessions().values()) == 10
