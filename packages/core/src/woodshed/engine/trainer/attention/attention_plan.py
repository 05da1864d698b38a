"""A trie in preorder → a cheap set of attention calls that together let every query attend to its own path.

A call has a fixed cost, and so has every (query, key) pair it computes, masked or not. A large segment of the trie gets
two kinds of calls: the segment on itself, causally, in blocks that form a staircase below the diagonal; and all of its
descendants on it, without a mask. A small subtree, or several small neighbours, get one call with a mask. Which is
cheaper is decided from the leaves up.

Keys are all positions; queries are the positions whose attention is computed, counted in their own order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from woodshed.tokens.packing import Segment

_CALL = 2048
"""Fixed cost of a call, in pairs: about 0.1 ms on a CPU for hidden sizes of 128 to 512."""
_BLOCK = 64
"""Smallest block on the diagonal, in positions; the masked half of such a block is computed too."""

CountQueries = Callable[[int], int]
"""Position → how many queries lie before it."""
Whole = Callable[[int, int], tuple[int, int] | None]
"""Numbers of a call's queries and keys → how many of each are whole blocks, or None."""


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """One attention call: a run of queries on a run of keys, or several such blocks of one size."""

    queries: slice
    """Queries of the first block."""
    keys: slice
    """Positions of the first block's keys."""
    mask: Literal["none", "causal", "tree"]
    is_first: bool
    """Whether no call before it computed these queries; otherwise its result is joined to theirs."""
    blocks: int = 1
    apart: int = 0
    """Distance from the start of one block to the next, in queries and in keys."""

    @property
    def pairs(self) -> int:
        """Number of (query, key) pairs that are computed, masked or not."""
        return self.blocks * (self.queries.stop - self.queries.start) * (self.keys.stop - self.keys.start)


@dataclass(frozen=True, slots=True)
class _Part:
    """A subtree, or several neighbouring ones that share a call, with the cost of its attention."""

    start: int
    stop: int
    """End of its first segment, from which the rest descends; equal to `below` if it is one call."""
    below: int
    cost: float
    children: tuple[_Part, ...]
    is_one_call: bool


def plan_attention(segments: Sequence[Segment], count_queries: CountQueries) -> tuple[AttentionTile, ...]:
    """Return the calls, ordered so that each query's first call has `is_first`.

    Args:
        segments: The trie's segments in preorder, split so that all or none of a segment's positions are queries.
        count_queries: How many queries lie before a position.
    """
    pending: list[_Part] = []
    for segment in reversed(segments):
        children = []
        while pending and pending[-1].start < segment.below:
            children.append(pending.pop())
        pending.append(_cheapest(segment, _merged(children, count_queries), count_queries))
    return tuple(_tiles(_merged(pending[::-1], count_queries), count_queries))


def cut(tiles: Iterable[AttentionTile], whole: Whole) -> Iterator[AttentionTile]:
    """Yield the calls, those without a mask cut into whole blocks and the strips beside and below them.

    Args:
        tiles: The calls.
        whole: What is whole; None leaves a call as it is.
    """
    for tile in tiles:
        queries, keys = tile.queries, tile.keys
        found = whole(queries.stop - queries.start, keys.stop - keys.start) if tile.mask == "none" else None
        if found is None:
            yield tile
            continue
        below, beside = queries.start + found[0], keys.start + found[1]
        inside = slice(queries.start, below)
        yield replace(tile, queries=inside, keys=slice(keys.start, beside))
        if beside < keys.stop:
            yield replace(tile, queries=inside, keys=slice(beside, keys.stop), is_first=False)
        if below < queries.stop:
            yield replace(tile, queries=slice(below, queries.stop))


def _cheapest(segment: Segment, children: tuple[_Part, ...], count_queries: CountQueries) -> _Part:
    own = count_queries(segment.stop) - count_queries(segment.start)
    descendants = count_queries(segment.below) - count_queries(segment.stop)
    separate = (
        _causal_cost(own) + _cost(descendants, segment.stop - segment.start) + sum(part.cost for part in children)
    )
    together = _one_call(segment.start, segment.below, count_queries)
    if together.cost < separate:
        return together
    return _Part(segment.start, segment.stop, segment.below, separate, children, is_one_call=False)


def _merged(parts: Iterable[_Part], count_queries: CountQueries) -> tuple[_Part, ...]:
    """Merge neighbours into one masked call where that is cheaper."""
    merged: list[_Part] = []
    for part in parts:
        together = _one_call(merged[-1].start, part.below, count_queries) if merged else None
        if together is not None and together.cost <= merged[-1].cost + part.cost:
            merged[-1] = together
        else:
            merged.append(part)
    return tuple(merged)


def _one_call(start: int, below: int, count_queries: CountQueries) -> _Part:
    cost = _cost(count_queries(below) - count_queries(start), below - start)
    return _Part(start, below, below, cost, (), is_one_call=True)


def _cost(queries: int, keys: int) -> float:
    return _CALL + queries * keys if queries else 0


def _causal_cost(count: int) -> float:
    return sum(_CALL + tile.pairs for tile in _causal(0, 0, count, is_first=True))


def _tiles(roots: Sequence[_Part], count_queries: CountQueries) -> Iterator[AttentionTile]:
    stack = [(part, True) for part in reversed(roots)]
    while stack:
        part, is_first = stack.pop()
        if part.is_one_call:
            if (queries := slice(count_queries(part.start), count_queries(part.below))).start < queries.stop:
                yield AttentionTile(queries, slice(part.start, part.below), "tree", is_first)
            continue
        own = slice(count_queries(part.start), count_queries(part.stop))
        descendants = slice(count_queries(part.stop), count_queries(part.below))
        if own.start < own.stop:
            yield from _causal(own.start, part.start, own.stop - own.start, is_first)
        if descendants.start < descendants.stop:
            yield AttentionTile(descendants, slice(part.start, part.stop), "none", is_first)
            stack += [(child, False) for child in reversed(part.children)]


def _causal(query: int, key: int, count: int, is_first: bool) -> list[AttentionTile]:
    """Return the cheapest calls for `count` positions that attend causally to themselves, from `query` and `key` on."""
    if not count:
        return []
    one = AttentionTile(slice(query, query + count), slice(key, key + count), "causal", is_first)
    stairs = list(_stairs(query, key, count, is_first))
    return min([one], stairs, key=lambda tiles: sum(_CALL + tile.pairs for tile in tiles))


def _stairs(query: int, key: int, count: int, is_first: bool) -> Iterator[AttentionTile]:
    """Yield the blocks on the diagonal as one call, then those below it, the second of each pair on the first."""
    blocks = max(1, count // _BLOCK)
    size = count // blocks
    yield AttentionTile(slice(query, query + size), slice(key, key + size), "causal", is_first, blocks, size)
    if remainder := count - blocks * size:
        yield AttentionTile(slice(query + count - remainder, query + count), slice(key, key + count), "tree", is_first)
    while blocks > 1:
        first, second = slice(key, key + size), slice(query + size, query + 2 * size)
        yield AttentionTile(second, first, "none", False, blocks // 2, 2 * size)
        if blocks % 2:
            before = (blocks - 1) * size
            yield AttentionTile(slice(query + before, query + before + size), slice(key, key + before), "none", False)
        blocks, size = blocks // 2, 2 * size
