"""Truncate a long attempt for the judge: keep its beginning, its end and its errors, and mark every gap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from woodshed.rewards.transcript import Block

_LARGEST_SHARE = 4
"""In an attempt that is too long, one message may take at most 1/4 of the limit."""
_HEAD_SHARE = 3
"""The beginning, and the errors, may each take at most 1/3 of the limit."""


def truncated(blocks: Sequence[Block], limit: int) -> str:
    """Return the blocks' text, truncated if it is longer than `limit` characters.

    First the middle of every large message is cut. If that is not enough, messages between the beginning and the end
    are left out, those that report a failed tool call last. A line in place of each gap says what was cut; these lines
    are not counted against the limit.
    """
    if _length(blocks) <= limit:
        return "\n".join(b.text for b in blocks)
    texts = [cut_middle(b.text, max(1, limit // _LARGEST_SHARE)) for b in blocks]
    kept = _kept(blocks, [len(t) + 1 for t in texts], limit)
    return "\n".join(_with_gaps(blocks, texts, kept))


def cut_middle(text: str, limit: int) -> str:
    """Return `text`, its middle cut if it is longer than `limit` characters; the start gets two thirds of these."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]}[… {len(text) - limit} characters cut …]{text[len(text) - tail :]}"


def _length(blocks: Sequence[Block]) -> int:
    return sum(len(b.text) + 1 for b in blocks)


def _kept(blocks: Sequence[Block], sizes: Sequence[int], limit: int) -> set[int]:
    """Return the indices of the blocks to keep: the last, a head, the latest errors, then what fits of the end."""
    if sum(sizes) <= limit:
        return set(range(len(blocks)))
    kept: set[int] = set()
    room = limit
    indices = range(len(blocks))
    # The last message is the attempt's outcome, so it is always kept.
    errors = (i for i in reversed(indices) if blocks[i].is_error)
    for candidates, share in (
        ((len(blocks) - 1,), limit),
        (indices, limit // _HEAD_SHARE),
        (errors, limit // _HEAD_SHARE),
    ):
        left = min(room, share)
        for index in candidates:
            if index in kept:
                continue
            if sizes[index] > left:
                break
            kept.add(index)
            left -= sizes[index]
            room -= sizes[index]
    for index in reversed(indices):
        if index not in kept:
            if sizes[index] > room:
                break
            kept.add(index)
            room -= sizes[index]
    return kept


def _with_gaps(blocks: Sequence[Block], texts: Sequence[str], kept: set[int]) -> list[str]:
    lines: list[str] = []
    gap: list[Block] = []
    for index, text in enumerate(texts):
        if index not in kept:
            gap.append(blocks[index])
            continue
        if gap:
            lines.append(_gap_line(gap))
            gap = []
        lines.append(text)
    return lines


def _gap_line(gap: Sequence[Block]) -> str:
    roles = ", ".join(f"{count} {role}" for role, count in Counter(b.role for b in gap).items())
    return f"[… {len(gap)} messages cut here: {roles}; {_length(gap) - len(gap)} characters …]"
