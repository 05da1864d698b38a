"""Two attempts side by side: which messages of one are in the other too, and which words of the rest are not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from woodshed.view.conversation import Json, essence

Span = tuple[int, int]
"""Start and end of a run of characters."""
_WORD = re.compile(r"\w+|\s+|[^\w\s]")
_MAX_WORDS = 1_500
"""Words of a text beyond which a comparison word by word would take too long; the whole text is then marked."""


def mark(messages: Sequence[Json], reference: Sequence[Json]) -> list[Json]:
    """Return the messages, each with `same` (whether the reference has it at this place) and `marks` where it differs.

    `marks` are the characters of `content` that the reference's message lacks; a tool request has its own, of its
    arguments.
    """
    own, other = [essence(m) for m in messages], [essence(m) for m in reference]
    marked: list[Json] = []
    for kind, a, b, c, d in SequenceMatcher(None, own, other, autojunk=False).get_opcodes():
        partners = reference[c:d]
        for offset, message in enumerate(messages[a:b]):
            partner = partners[offset] if offset < len(partners) else None
            marked.append({**message, "same": True} if kind == "equal" else _marked(message, partner))
    return marked


def _marked(message: Json, partner: Json | None) -> Json:
    if partner is None or partner["role"] != message["role"]:
        return {**message, "same": False}
    others: Sequence[Any] = partner.get("requests", ())
    requests = [
        {**r, **_request_marks(r, others[k] if k < len(others) else None)}
        for k, r in enumerate(message.get("requests", ()))
    ]
    marks = word_marks(message.get("content") or "", partner.get("content") or "")
    return {**message, "same": False, "marks": marks, **({"requests": requests} if requests else {})}


def _request_marks(request: Json, partner: Json | None) -> Json:
    if partner is None or partner["name"] != request["name"]:
        return {"other_tool": True}
    return {"marks": word_marks(request["arguments"], partner["arguments"])}


def word_marks(text: str, reference: str) -> list[Span]:
    """Return the runs of characters in `text`, whole words, that `reference` does not have at that place."""
    if text == reference:
        return []
    words, other = _WORD.findall(text), _WORD.findall(reference)
    if not other or len(words) > _MAX_WORDS or len(other) > _MAX_WORDS:
        return [(0, len(text))] if text else []
    ends = [0]
    for word in words:
        ends.append(ends[-1] + len(word))
    spans: list[Span] = []
    for kind, a, b, _, _ in SequenceMatcher(None, words, other, autojunk=False).get_opcodes():
        if kind != "equal" and b > a:
            spans.append((ends[a], ends[b]))
    return spans
