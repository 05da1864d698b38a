"""Rows → packs: a pack is a trie over token ids, laid out as one sequence, in which each shared prefix is held once.

The rollouts of a group share their system prompt, tools and task, and the rows of a rollout share their history, so a
pack is several times shorter than its rows. Attention along a row's own path keeps it exact. The layout is the trie in
preorder: all that follows a token in any row lies in one run behind it, which `Segment` says in two numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of the trie without a fork: positions `start` to `stop`, seen by themselves and all up to `below`."""

    start: int
    stop: int
    below: int
    """End of what descends from it: a position q sees a position k of the segment where k <= q < below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Several rows folded into one sequence of unique tokens."""

    token_ids: tuple[int, ...]
    depths: tuple[int, ...]
    """Position of each token in its own row(s): what the model's position ids must be."""
    rows: tuple[int, ...]
    """Which of the given rows the pack holds."""
    paths: tuple[tuple[int, ...], ...]
    """For each row, the pack's index of each of its tokens."""
    shared: tuple[int, ...]
    """For each row, how many leading tokens an earlier row of the pack already holds; the rest follow in one run."""

    def segments(self) -> tuple[Segment, ...]:
        """Return the trie's runs in order of their start; together they hold every position once."""
        starts = self._starts()
        stops = [*starts[1:], len(self.token_ids)]
        below = list(stops)
        for path in self.paths:
            at = 0
            while at < len(path):
                number = bisect_right(starts, path[at]) - 1
                below[number] = max(below[number], path[-1] + 1)
                at += stops[number] - starts[number]
        return tuple(Segment(start=a, stop=b, below=c) for a, b, c in zip(starts, stops, below, strict=True))

    def _starts(self) -> list[int]:
        """Where a row begins to differ from the one before it, and where the earlier one forked."""
        starts = {0} if self.token_ids else set()
        for path, shared in zip(self.paths, self.shared, strict=True):
            if shared < len(path) and (shared == 0 or path[shared] != path[shared - 1] + 1):
                starts |= {path[shared], *([path[shared - 1] + 1] if shared else [])}
        return sorted(starts)


def pack_rows(rows: Sequence[tuple[int, ...]], *, token_budget: int, share: bool = True) -> tuple[Pack, ...]:
    """Return packs that together hold every row once, each of at most `token_budget` tokens.

    A row that is longer than the budget gets a pack of its own. With `share=False` every pack holds one row: for
    models whose attention cannot follow a path.
    """
    packs: list[Pack] = []
    chosen: list[int] = []
    size = 0
    # In sorted order, a row's longest prefix shared with any earlier row is the one shared with its neighbour.
    for index in sorted(range(len(rows)), key=lambda k: rows[k]):
        fresh = len(rows[index]) - (common_prefix(rows[chosen[-1]], rows[index]) if chosen else 0)
        if chosen and (not share or size + fresh > token_budget):
            packs.append(_pack(rows, chosen))
            chosen, size, fresh = [], 0, len(rows[index])
        chosen.append(index)
        size += fresh
    return (*packs, _pack(rows, chosen)) if chosen else ()


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading tokens two rows share."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # bisect on slices, which compare at C speed
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle - 1)
    return low


def _pack(rows: Sequence[tuple[int, ...]], chosen: Sequence[int]) -> Pack:
    token_ids: list[int] = []
    depths: list[int] = []
    paths: list[tuple[int, ...]] = []
    shared: list[int] = []
    for row, before in _with_neighbour(rows, chosen):
        kept = common_prefix(before, row)
        start = len(token_ids)
        paths.append((paths[-1][:kept] if paths else ()) + tuple(range(start, start + len(row) - kept)))
        shared.append(kept)
        token_ids += row[kept:]
        depths += range(kept, len(row))
    return Pack(
        token_ids=tuple(token_ids),
        depths=tuple(depths),
        rows=tuple(chosen),
        paths=tuple(paths),
        shared=tuple(shared),
    )


def _with_neighbour(
    rows: Sequence[tuple[int, ...]], chosen: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    before: tuple[int, ...] = ()
    for index in chosen:
        yield rows[index], before
        before = rows[index]
