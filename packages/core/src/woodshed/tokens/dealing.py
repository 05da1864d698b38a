"""Rows → one share for each of several trainers, so that the one with most to do has as little as possible.

Rows that share a prefix are neighbours in sorted order, so a share is a run of neighbours. Most groups' trees stay
whole; one is cut only where that shortens the longest share although both sides then hold its shared prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from woodshed.tokens.packing import common_prefix


def deal_rows(rows: Sequence[tuple[int, ...]], shares: int) -> list[list[int]]:
    """Return the indices of each share's rows; together they hold every row once, and some may be empty.

    No other cut of the sorted rows into `shares` runs has a longest share with fewer unique tokens, which are those of
    the trie over its rows.
    """
    order = sorted(range(len(rows)), key=lambda k: rows[k])
    lengths = [len(rows[k]) for k in order]
    shared = [0, *(common_prefix(rows[a], rows[b]) for a, b in pairwise(order))]
    low, high = max(lengths, default=0), sum(lengths)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_runs(lengths, shared, middle)) <= shares else (middle + 1, high)
    runs = [order[start:stop] for start, stop in _runs(lengths, shared, low)]
    return runs + [[] for _ in range(shares - len(runs))]


def _runs(lengths: Sequence[int], shared: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Return the fewest runs of at most `limit` unique tokens each, as start and stop; no row may be longer."""
    starts: list[int] = []
    size = 0
    for k, length in enumerate(lengths):
        if starts and size + length - shared[k] <= limit:
            size += length - shared[k]
        else:
            starts.append(k)
            size = length
    return list(pairwise((*starts, len(lengths))))
