"""Rows → packs: a pack is a trie over token ids, laid out as one sequence, that stores each shared prefix once.

The rollouts of a group share their system prompt, tools and task, and the rows of a rollout share their history, so a
pack is several times shorter than its rows. Attention restricted to a row's own path gives exactly the row's result.
The trie is laid out in preorder: the descendants of a token, in any row, are one contiguous run behind it. `Segment`
therefore describes who attends to whom with two numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of the trie without a fork: positions `start` to `stop`, to which they and all up to `below` attend."""

    start: int
    stop: int
    below: int
    """End of its descendants: position q attends to position k of the segment where k <= q < below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """Several rows merged into one sequence that holds each shared prefix once."""

    token_ids: tuple[int, ...]
    depths: tuple[int, ...]
    """Position of each token in its row(s): the model's position ids."""
    rows: tuple[int, ...]
    """Indices of the given rows that the pack holds."""
    paths: tuple[tuple[int, ...], ...]
    """For each row, the pack's index of each of its tokens."""
    shared: tuple[int, ...]
    """For each row, how many leading tokens it shares with an earlier row of the pack; its other tokens are one run."""

    def segments(self) -> tuple[Segment, ...]:
        """Return the trie's runs in order of their start; together they hold every position once."""
        starts = self._starts()
        stops = [*starts[1:], len(self.token_ids)]
        below = list(stops)
        for path in self.paths:
            depth = 0
            while depth < len(path):
                segment = bisect_right(starts, path[depth]) - 1
                below[segment] = max(below[segment], path[-1] + 1)
                depth += stops[segment] - starts[segment]
        return tuple(Segment(start=a, stop=b, below=c) for a, b, c in zip(starts, stops, below, strict=True))

    def _starts(self) -> list[int]:
        """Return where a row begins to differ from the one before it, and where that one goes on."""
        starts = {0} if self.token_ids else set()
        for path, shared in zip(self.paths, self.shared, strict=True):
            if shared < len(path) and (shared == 0 or path[shared] != path[shared - 1] + 1):
                starts |= {path[shared], *([path[shared - 1] + 1] if shared else [])}
        return sorted(starts)


def pack_rows(rows: Sequence[tuple[int, ...]], *, token_budget: int, share: bool = True) -> tuple[Pack, ...]:
    """Return packs that together hold every row once, each of at most `token_budget` tokens.

    A row that is longer than the budget gets a pack of its own. With `share=False` every pack holds one row, for models
    whose attention cannot be restricted to a path.
    """
    packs: list[Pack] = []
    row_indices: list[int] = []
    size = 0
    # In sorted order, a row's longest prefix shared with any earlier row is the one shared with its neighbour.
    for index in sorted(range(len(rows)), key=lambda k: rows[k]):
        new_tokens = len(rows[index]) - (common_prefix(rows[row_indices[-1]], rows[index]) if row_indices else 0)
        if row_indices and (not share or size + new_tokens > token_budget):
            packs.append(_pack(rows, row_indices))
            row_indices, size, new_tokens = [], 0, len(rows[index])
        row_indices.append(index)
        size += new_tokens
    return (*packs, _pack(rows, row_indices)) if row_indices else ()


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading tokens two rows share."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # bisect on slices, which compare at C speed
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle - 1)
    return low


def _pack(rows: Sequence[tuple[int, ...]], row_indices: Sequence[int]) -> Pack:
    token_ids: list[int] = []
    depths: list[int] = []
    paths: list[tuple[int, ...]] = []
    shared: list[int] = []
    for row, before in _with_row_before(rows, row_indices):
        kept = common_prefix(before, row)
        start = len(token_ids)
        paths.append((paths[-1][:kept] if paths else ()) + tuple(range(start, start + len(row) - kept)))
        shared.append(kept)
        token_ids += row[kept:]
        depths += range(kept, len(row))
    return Pack(
        token_ids=tuple(token_ids),
        depths=tuple(depths),
        rows=tuple(row_indices),
        paths=tuple(paths),
        shared=tuple(shared),
    )


def _with_row_before(
    rows: Sequence[tuple[int, ...]], row_indices: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    before: tuple[int, ...] = ()
    for index in row_indices:
        yield rows[index], before
        before = rows[index]
