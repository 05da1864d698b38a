"""A trie in preorder → calls of variable-length causal attention, each sequence of which is one path of the trie.

In preorder a segment's first child lies right behind it. So the positions split into chains, each a run from a fork to
a leaf: as many as there are leaves. A chain's queries attend causally, from the bottom right, to the keys on the path
from the root to its end. The queries are used as they lie; the keys of each path are gathered, and there are never more
of them than the rows of the pack have tokens.

Shapes: N positions, Q queries of the plan, T queries of a call, U gathered keys of a call, S sequences of a call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from woodshed.tokens.packing import Segment

MAX_KEYS = 2**17
"""Most gathered keys of one call, unless one path is longer: with 8 heads of 128 numbers in bf16, 256 MiB of keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PathCall:
    """One call: several sequences of queries, each at the end of its own sequence of keys."""

    query_counts_S: tuple[int, ...]
    key_counts_S: tuple[int, ...]
    keys: tuple[slice, ...]
    """Positions of the keys, path after path: U in all."""
    queries: tuple[slice, ...]
    """Positions of the queries, run after run: T in all. In the last layer some of them are no queries of the plan."""

    @property
    def gathered(self) -> int:
        """How many keys the call gathers: U."""
        return sum(self.key_counts_S)

    @property
    def pairs(self) -> int:
        """Number of (query, key) pairs that are attended to."""
        return sum(q * k - q * (q - 1) // 2 for q, k in zip(self.query_counts_S, self.key_counts_S, strict=True))


@dataclass(frozen=True, slots=True)
class _Chain:
    """A run of positions from a fork, or the root, to a leaf."""

    above: tuple[slice, ...]
    """The positions on the path from the root to it."""
    start: int
    stop: int


def plan_paths(
    segments: Sequence[Segment], queries: Sequence[int] | None, *, max_keys: int = MAX_KEYS
) -> tuple[PathCall, ...]:
    """Return the calls in the order of their queries; together they hold every query of the plan once.

    Args:
        segments: The trie's segments in preorder.
        queries: Positions of the queries, ascending; None for all. A chain is cut before its first and after its last
            query; those between them that nobody asked for are computed, too, which is cheaper than another path.
        max_keys: Most gathered keys of a call of more than one sequence.
    """
    calls: list[PathCall] = []
    pending: list[tuple[_Chain, int, int]] = []
    gathered = 0
    for chain in _chains(segments):
        first, stop = chain.start, chain.stop
        if queries is not None:
            inside = queries[bisect_left(queries, chain.start) : bisect_left(queries, chain.stop)]
            if not inside:
                continue
            first, stop = inside[0], inside[-1] + 1
        keys = sum(s.stop - s.start for s in chain.above) + stop - chain.start
        if pending and gathered + keys > max_keys:
            calls.append(_call(pending))
            pending, gathered = [], 0
        pending.append((chain, first, stop))
        gathered += keys
    return (*calls, _call(pending)) if pending else ()


def _chains(segments: Sequence[Segment]) -> Iterator[_Chain]:
    """Yield the chains in preorder."""
    path: list[Segment] = []
    above: tuple[slice, ...] = ()
    for segment in segments:
        while path and path[-1].below <= segment.start:
            path.pop()
        if not path or path[-1].stop != segment.start:  # not the first child of the segment before it
            above = _merged(path)
            start = segment.start
        path.append(segment)
        if segment.below == segment.stop:  # a leaf
            yield _Chain(above, start, segment.stop)


def _merged(path: Sequence[Segment]) -> tuple[slice, ...]:
    """Return the positions of a path's segments as few slices."""
    runs: list[slice] = []
    for segment in path:
        if runs and runs[-1].stop == segment.start:
            runs[-1] = slice(runs[-1].start, segment.stop)
        else:
            runs.append(slice(segment.start, segment.stop))
    return tuple(runs)


def _call(sequences: Sequence[tuple[_Chain, int, int]]) -> PathCall:
    paths = [(*chain.above, slice(chain.start, stop)) for chain, _, stop in sequences]
    return PathCall(
        query_counts_S=tuple(stop - first for _, first, stop in sequences),
        key_counts_S=tuple(sum(s.stop - s.start for s in path) for path in paths),
        keys=tuple(s for path in paths for s in path),
        queries=tuple(slice(first, stop) for _, first, stop in sequences),
    )
