"""Promises of packing: nothing lost, every shared prefix once, each token sees exactly its own row."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from woodshed.tokens import Pack, pack_rows
from woodshed.tokens.packing import common_prefix

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), max_size=10)


def unfolded(pack: Pack) -> list[tuple[int, ...]]:
    return [tuple(pack.token_ids[at] for at in path) for path in pack.paths]


@given(ROWS, st.integers(1, 30), st.booleans())
def test_packs_hold_every_row_once(rows: list[tuple[int, ...]], budget: int, share: bool) -> None:
    packs = pack_rows(rows, token_budget=budget, share=share)

    assert sorted(index for pack in packs for index in pack.rows) == list(range(len(rows)))
    assert all(unfolded(pack) == [rows[index] for index in pack.rows] for pack in packs)


@given(ROWS, st.integers(1, 30))
def test_packs_keep_to_the_budget_unless_one_row_is_longer(rows: list[tuple[int, ...]], budget: int) -> None:
    for pack in pack_rows(rows, token_budget=budget):
        assert len(pack.token_ids) <= budget or len(pack.rows) == 1


@given(ROWS)
def test_each_shared_prefix_is_held_once(rows: list[tuple[int, ...]]) -> None:
    prefixes = {row[: k + 1] for row in rows for k in range(len(row))}

    assert sum(len(pack.token_ids) for pack in pack_rows(rows, token_budget=10_000)) == len(prefixes)


@given(ROWS, st.integers(1, 30))
def test_path_grows_and_its_new_part_is_one_run(rows: list[tuple[int, ...]], budget: int) -> None:
    for pack in pack_rows(rows, token_budget=budget):
        for path, shared in zip(pack.paths, pack.shared, strict=True):
            assert [pack.depths[at] for at in path] == list(range(len(path)))
            assert list(path) == sorted(set(path))
            fresh = path[shared:]
            assert not fresh or list(fresh) == list(range(fresh[0], fresh[0] + len(fresh)))


@given(ROWS, st.integers(1, 30))
def test_segments_say_who_sees_whom(rows: list[tuple[int, ...]], budget: int) -> None:
    for pack in pack_rows(rows, token_budget=budget):
        segments = pack.segments()
        ancestors = {at: set(path[: k + 1]) for path in pack.paths for k, at in enumerate(path)}

        assert [at for s in segments for at in range(s.start, s.stop)] == list(range(len(pack.token_ids)))
        for s in segments:
            for at in range(s.start, s.stop):
                assert {q for q, seen in ancestors.items() if at in seen} == set(range(at, s.below))


def test_rows_that_fork_once_make_three_segments() -> None:
    (pack,) = pack_rows([(1, 2, 3, 4), (1, 2, 5)], token_budget=100)

    assert [(s.start, s.stop, s.below) for s in pack.segments()] == [(0, 2, 5), (2, 4, 4), (4, 5, 5)]


@given(ROWS)
def test_without_sharing_every_pack_is_one_row(rows: list[tuple[int, ...]]) -> None:
    packs = pack_rows(rows, token_budget=10_000, share=False)

    assert all(pack.token_ids == rows[pack.rows[0]] and len(pack.rows) == 1 for pack in packs)


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_prefix_equals_a_plain_count(left: list[int], right: list[int]) -> None:
    plain = next((k for k, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))

    assert common_prefix(left, right) == plain
