"""What was read of a file and what was not, place by place, for a summary that a person can act on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

_SHOWN = 5


@dataclass(kw_only=True, slots=True)
class Notes:
    """Everything that was left out while reading, each with its place."""

    skipped: dict[str, list[str]] = field(default_factory=dict)
    """Why something was left out → where."""
    ignored: dict[str, list[str]] = field(default_factory=dict)
    """Which field is unknown, or was changed → where; the rest of the entry was read."""

    def skip(self, place: str, why: str) -> None:
        """Note that an entry was left out."""
        self.skipped.setdefault(why, []).append(place)

    def ignore(self, place: str, fields: Iterable[str]) -> None:
        """Note fields that were left out of an entry."""
        for name in fields:
            self.ignored.setdefault(name, []).append(place)

    def lines(self) -> list[str]:
        """Return one line for each reason and each field, with the first places."""
        return [f"left out {_places(where)}: {why}" for why, where in self.skipped.items()] + [
            f"unknown field {name!r}, ignored: {_places(where)}" for name, where in self.ignored.items()
        ]


def _places(places: list[str]) -> str:
    distinct = list(dict.fromkeys(places))
    more = f" and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return ", ".join(distinct[:_SHOWN]) + more
