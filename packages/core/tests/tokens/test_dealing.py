"""Rows are dealt to trainers whole, each once, and no trainer gets more than it must."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from woodshed.tokens import deal_rows, pack_rows

Rows = list[tuple[int, ...]]
ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple), max_size=8)


def unique_tokens(rows: Rows) -> int:
    return sum(len(pack.token_ids) for pack in pack_rows(rows, token_budget=10**9))


def longest_of_best_cut(rows: Rows, shares: int) -> int:
    """Try every cut of the sorted rows into runs."""
    ordered = sorted(rows)
    cuts = combinations(range(len(rows) + 1), min(shares - 1, len(rows) + 1))
    edges = ((0, *cut, len(rows)) for cut in cuts)
    return min(max(unique_tokens(ordered[a:b]) for a, b in pairwise(cut)) for cut in edges)


@given(ROWS, st.integers(1, 4))
def test_every_row_is_dealt_once_and_no_cut_has_a_shorter_longest_share(rows: Rows, shares: int) -> None:
    dealt = deal_rows(rows, shares)

    assert len(dealt) == shares
    assert sorted(index for share in dealt for index in share) == list(range(len(rows)))
    assert max(unique_tokens([rows[k] for k in share]) for share in dealt) == longest_of_best_cut(rows, shares)


def test_trees_stay_whole_where_they_are_even() -> None:
    groups = [[(g, *range(50), 100 + k, k) for k in range(4)] for g in range(6)]
    rows = [row for group in groups for row in group]
    dealt = deal_rows(rows[::-1], 3)

    assert sorted(len({rows[::-1][k][0] for k in share}) for share in dealt) == [2, 2, 2]


@pytest.mark.parametrize("shares", [2, 5])
def test_fewer_rows_than_shares_leave_some_empty(shares: int) -> None:
    assert deal_rows([(1, 2, 3)], shares) == [[0], *[[]] * (shares - 1)]
    assert deal_rows([], shares) == [[]] * shares
