"""The facts that a text states: days, times, sums of money, counts and places, in whatever way they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Literal

from company import PLACES

Kind = Literal["day", "time", "money", "count", "place"]
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_NUMBER_WORDS = "two three four five six seven eight nine ten eleven twelve".split()
_MONTH = "|".join(f"{month}|{month[:3]}" for month in MONTHS)
_YEAR = r"(?:,? 20\d\d)?"
_AMOUNT = r"(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d\d?))?"
_PATTERNS: tuple[tuple[Kind, str], ...] = (
    ("day", rf"\b(?P<number>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<month>{_MONTH})\b\.?{_YEAR}"),
    ("day", rf"\b(?P<month>{_MONTH})\.? (?P<number>\d{{1,2}})(?:st|nd|rd|th)?\b{_YEAR}"),
    ("day", r"\b20\d\d-(?P<month>\d\d)-(?P<number>\d\d)\b"),
    ("time", r"\b(?P<hour>\d{1,2})(?::(?P<minute>\d\d))? ?(?P<half>[ap])\.?m\b\.?"),
    ("time", r"\b(?P<hour>\d{1,2}):(?P<minute>\d\d)\b"),
    ("money", rf"(?:\bEUR|\bEuros?|€) ?{_AMOUNT}"),
    ("money", rf"\b{_AMOUNT} ?(?:EUR\b|Euros?\b|€)"),
    ("count", r"\b(?P<count>\d+)\b"),
    ("count", rf"\b(?P<word>{'|'.join(_NUMBER_WORDS)})\b"),
    ("place", "|".join(re.escape(place.removeprefix("the ")) for place in PLACES)),
)


_HEDGED = re.compile(r"\d ?(?:or|and|to|/|–) ?\d|\bor\b[^.]*\d")
"""`19 or 20 March`, `19 March or the 20th`: more than one fact in one breath."""


def day_text(day: date) -> str:
    """Return a day as the mails write it, such as `19 March`."""
    return f"{day.day} {MONTHS[day.month - 1]}"


def facts(text: str) -> Mapping[Kind, frozenset[str]]:
    """Return the facts in a text by kind, each in one spelling: `19 March` and `2025-03-19` are one day."""
    found: dict[Kind, set[str]] = {}
    for kind, pattern in _PATTERNS:
        for match in re.finditer(pattern, text, re.IGNORECASE):
            found.setdefault(kind, set()).add(" ".join(_spelled(kind, match)))
        # What one pattern has read is no number for the next: `19 March` holds no count of 19.
        text = re.sub(pattern, " ; ", text, flags=re.IGNORECASE)
    return {kind: frozenset(values) for kind, values in found.items()}


def states(text: str, truth: str) -> bool:
    """Say whether a text states the facts of `truth`, and no other of the same kinds."""
    if _HEDGED.search(text):
        return False
    found = facts(text)
    return all(found.get(kind) == values for kind, values in facts(truth).items())


def _spelled(kind: Kind, match: re.Match[str]) -> Iterator[str]:
    part = match.groupdict()
    if kind == "day":
        month = part["month"].lower()
        yield month if month.isdigit() else f"{[m[:3].lower() for m in MONTHS].index(month[:3]) + 1:02}"
        yield part["number"].zfill(2)
    elif kind == "time":
        hour = int(part["hour"])
        if half := part.get("half"):
            hour = hour % 12 + (12 if half.lower() == "p" else 0)
        yield f"{hour:02}:{part['minute'] or '00'}"
    elif kind == "money":
        yield match[1].replace(",", "") + f".{(match[2] or '').ljust(2, '0')}"
    elif kind == "count":
        yield part["count"] if "count" in part else str(_NUMBER_WORDS.index(part["word"].lower()) + 2)
    else:
        yield match[0].lower()
