"""A trie in preorder → the attention calls that together show every position its own path, few and not wasteful.

A call has a price of its own, and so have pairs that are computed only to be masked. A large run of the trie is seen
by itself, causally and in halves, and by all behind it without a mask; small subtrees, and small neighbours, are one
call under a mask. Which is cheaper is decided from the leaves up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from etude.tokens.packing import Segment

_CALL = 2048
"""What a call costs beside its pairs, in pairs: about 0.1 ms on a CPU, as the hidden sizes 128 to 512 have it."""

Place = Callable[[int], int]
"""How many of those that ask lie before a position."""


@dataclass(frozen=True, slots=True)
class Look:
    """One attention call: some of those that ask look at a run of keys."""

    queries: slice
    keys: slice
    mask: Literal["none", "causal", "tree"]
    is_first: bool
    """Whether nothing was seen by these before; what they see is joined otherwise."""


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


def plan_looks(segments: Sequence[Segment], place: Place) -> tuple[Look, ...]:
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
    """A causal call computes its masked half too, so a long run is cheaper in halves."""
    if not _is_halved(count):
        return _cost(count, count)
    left = count // 2
    return _causal_cost(left) + _causal_cost(count - left) + _cost(count - left, left)


def _is_halved(count: int) -> bool:
    left = count // 2
    return _cost(left, left) + _cost(count - left, count - left) + _cost(count - left, left) < _cost(count, count)


def _emitted(roots: Sequence[_Part], place: Place) -> Iterator[Look]:
    stack = [(part, True) for part in reversed(roots)]
    while stack:
        part, is_first = stack.pop()
        if part.is_one_call:
            if (asking := slice(place(part.start), place(part.below))).start < asking.stop:
                yield Look(asking, slice(part.start, part.below), "tree", is_first)
            continue
        own, behind = slice(place(part.start), place(part.stop)), slice(place(part.stop), place(part.below))
        if own.start < own.stop:
            yield from _halves(own.start, part.start, own.stop - own.start, is_first)
        if behind.start < behind.stop:
            yield Look(behind, slice(part.start, part.stop), "none", is_first)
            stack += [(below, False) for below in reversed(part.inside)]


def _halves(query: int, key: int, count: int, is_first: bool) -> Iterator[Look]:
    """Yield a causal run of `count`, whose queries and keys begin at the places given."""
    if not _is_halved(count):
        yield Look(slice(query, query + count), slice(key, key + count), "causal", is_first)
        return
    left, right = count // 2, count - count // 2
    yield from _halves(query, key, left, is_first)
    yield from _halves(query + left, key + left, right, is_first)
    yield Look(slice(query + left, query + count), slice(key, key + left), "none", False)
