"""A long attempt, cut to what a judge can read: its beginning, its end and its errors stay, and what went is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from woodshed.rewards.transcript import Block

_LARGEST_SHARE = 4
"""A single message may take one part in this many of an attempt that is too long."""
_HEAD_SHARE = 3
"""What is kept of the beginning, and at most of the errors: one part in this many of the room."""


def compacted(blocks: Sequence[Block], budget: int) -> str:
    """Return the blocks' text, shortened where it is longer than `budget` characters.

    First every message that is large by itself loses its middle. Where that is not enough, messages between the
    beginning and the end are left out, those that tell of a failed tool last. Each gap says in its place what was cut.
    The lines that say so come on top of the budget.
    """
    if _length(blocks) <= budget:
        return "\n".join(b.text for b in blocks)
    texts = [cut_middle(b.text, max(1, budget // _LARGEST_SHARE)) for b in blocks]
    kept = _kept(blocks, [len(t) + 1 for t in texts], budget)
    return "\n".join(_with_gaps(blocks, texts, kept))


def cut_middle(text: str, longest: int) -> str:
    """Return `text` without its middle where it is longer than `longest`; two thirds of what is kept is its head."""
    if len(text) <= longest:
        return text
    head = longest * 2 // 3
    tail = longest - head
    return f"{text[:head]}[… {len(text) - longest} characters cut …]{text[len(text) - tail :]}"


def _length(blocks: Sequence[Block]) -> int:
    return sum(len(b.text) + 1 for b in blocks)


def _kept(blocks: Sequence[Block], sizes: Sequence[int], budget: int) -> set[int]:
    """Return the places of what is kept: a head, then errors from the last to the first, then as much tail as fits."""
    if sum(sizes) <= budget:
        return set(range(len(blocks)))
    kept: set[int] = set()
    room = budget
    places = range(len(blocks))
    # The last message is what the attempt came to: it is never left out.
    errors = (p for p in reversed(places) if blocks[p].is_error)
    for wanted, share in (
        ((len(blocks) - 1,), budget),
        (places, budget // _HEAD_SHARE),
        (errors, budget // _HEAD_SHARE),
    ):
        left = min(room, share)
        for place in wanted:
            if place in kept:
                continue
            if sizes[place] > left:
                break
            kept.add(place)
            left -= sizes[place]
            room -= sizes[place]
    for place in reversed(places):
        if place not in kept:
            if sizes[place] > room:
                break
            kept.add(place)
            room -= sizes[place]
    return kept


def _with_gaps(blocks: Sequence[Block], texts: Sequence[str], kept: set[int]) -> list[str]:
    lines: list[str] = []
    gap: list[Block] = []
    for place, text in enumerate(texts):
        if place not in kept:
            gap.append(blocks[place])
            continue
        if gap:
            lines.append(_said(gap))
            gap = []
        lines.append(text)
    return lines


def _said(gap: Sequence[Block]) -> str:
    roles = ", ".join(f"{count} {role}" for role, count in Counter(b.role for b in gap).items())
    return f"[… {len(gap)} messages cut here: {roles}; {_length(gap) - len(gap)} characters …]"
