"""A trie in preorder → the attention calls that together show every position its own path, few and not wasteful.

A call has a price of its own, and so have pairs that are computed only to be masked. A large run of the trie is seen
by itself, in blocks that make a staircase below the diagonal, and by all behind it without a mask; small subtrees, and
small neighbours, are one call under a mask. Which is cheaper is decided from the leaves up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from woodshed.tokens.packing import Segment

_CALL = 2048
"""What a call costs beside its pairs, in pairs: about 0.1 ms on a CPU, as the hidden sizes 128 to 512 have it."""
_BLOCK = 64
"""Least length of a block on the diagonal, whose masked half is computed too."""

Place = Callable[[int], int]
"""How many of those that ask lie before a position."""


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """One attention call: some of the queries look at a run of keys, in one block or in several alike."""

    queries: slice
    """Of the first block, counted among those that ask."""
    keys: slice
    mask: Literal["none", "causal", "tree"]
    is_first: bool
    """Whether nothing was seen by these before; what they see is joined otherwise."""
    blocks: int = 1
    apart: int = 0
    """From the start of a block to that of the next, in queries and in keys."""

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that are computed, masked or not."""
        return self.blocks * (self.queries.stop - self.queries.start) * (self.keys.stop - self.keys.start)


@dataclass(frozen=True, slots=True)
class _Part:
    """A subtree, or several neighbours under one mask."""

    start: int
    stop: int
    """End of the run that all of it descends from; `below` where it is one call."""
    below: int
    cost: float
    inside: tuple[_Part, ...]
    is_one_call: bool


def plan_attention(segments: Sequence[Segment], place: Place) -> tuple[AttentionTile, ...]:
    """Return the calls, in an order in which all that ask are first seen by a root.

    Args:
        segments: The trie's runs in preorder, cut so that all or none of a run's positions ask.
        place: How many of those that ask lie before a position.
    """
    waiting: list[_Part] = []
    for segment in reversed(segments):
        inside = []
        while waiting and waiting[-1].start < segment.below:
            inside.append(waiting.pop())
        waiting.append(_cheapest(segment, _merged(inside, place), place))
    return tuple(_emitted(_merged(waiting[::-1], place), place))


def _cheapest(segment: Segment, inside: tuple[_Part, ...], place: Place) -> _Part:
    own, behind = place(segment.stop) - place(segment.start), place(segment.below) - place(segment.stop)
    apart = _causal_cost(own) + _cost(behind, segment.stop - segment.start) + sum(part.cost for part in inside)
    together = _one_call(segment.start, segment.below, place)
    if together.cost < apart:
        return together
    return _Part(segment.start, segment.stop, segment.below, apart, inside, is_one_call=False)


def _merged(parts: Iterable[_Part], place: Place) -> tuple[_Part, ...]:
    """Put neighbours under one mask where that is cheaper."""
    found: list[_Part] = []
    for part in parts:
        together = _one_call(found[-1].start, part.below, place) if found else None
        if together is not None and together.cost <= found[-1].cost + part.cost:
            found[-1] = together
        else:
            found.append(part)
    return tuple(found)


def _one_call(start: int, below: int, place: Place) -> _Part:
    cost = _cost(place(below) - place(start), below - start)
    return _Part(start, below, below, cost, (), is_one_call=True)


def _cost(queries: int, keys: int) -> float:
    return _CALL + queries * keys if queries else 0


def _causal_cost(count: int) -> float:
    return sum(_CALL + tile.pairs for tile in _causal(0, 0, count, is_first=True))


def _emitted(roots: Sequence[_Part], place: Place) -> Iterator[AttentionTile]:
    stack = [(part, True) for part in reversed(roots)]
    while stack:
        part, is_first = stack.pop()
        if part.is_one_call:
            if (queries := slice(place(part.start), place(part.below))).start < queries.stop:
                yield AttentionTile(queries, slice(part.start, part.below), "tree", is_first)
            continue
        own, behind = slice(place(part.start), place(part.stop)), slice(place(part.stop), place(part.below))
        if own.start < own.stop:
            yield from _causal(own.start, part.start, own.stop - own.start, is_first)
        if behind.start < behind.stop:
            yield AttentionTile(behind, slice(part.start, part.stop), "none", is_first)
            stack += [(below, False) for below in reversed(part.inside)]


def _causal(query: int, key: int, count: int, is_first: bool) -> list[AttentionTile]:
    """Return the cheaper calls for a causal run of `count`, whose queries and keys begin at the places given."""
    if not count:
        return []
    one = AttentionTile(slice(query, query + count), slice(key, key + count), "causal", is_first)
    stairs = list(_stairs(query, key, count, is_first))
    return min([one], stairs, key=lambda tiles: sum(_CALL + tile.pairs for tile in tiles))


def _stairs(query: int, key: int, count: int, is_first: bool) -> Iterator[AttentionTile]:
    """Yield the blocks on the diagonal as one call, then those below it: of each two, the second sees the first."""
    blocks = max(1, count // _BLOCK)
    size = count // blocks
    yield AttentionTile(slice(query, query + size), slice(key, key + size), "causal", is_first, blocks, size)
    if rest := count - blocks * size:
        yield AttentionTile(slice(query + count - rest, query + count), slice(key, key + count), "tree", is_first)
    while blocks > 1:
        first, second = slice(key, key + size), slice(query + size, query + 2 * size)
        yield AttentionTile(second, first, "none", False, blocks // 2, 2 * size)
        if blocks % 2:
            before = (blocks - 1) * size
            yield AttentionTile(slice(query + before, query + before + size), slice(key, key + before), "none", False)
        blocks, size = blocks // 2, 2 * size
