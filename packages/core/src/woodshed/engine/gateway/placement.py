"""Which replica a session's calls go to: the same one as before, so that they meet their prefix cache there.

A session's first call is placed by rendezvous hashing (Thaler & Ravishankar 1998) with bounded load (Mirrokni, Thorup &
Zadimoghaddam, arXiv:1608.01350): every replica has an order of its own for each session, and the first of them that has
room takes it. A replica has room while it has at most `SLACK` times its fair share of the sessions in use. So sessions
spread evenly, and one replica's death moves its own sessions and no others.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

SLACK = 1.25
"""Most sessions of a replica, as a multiple of the mean."""
_FAR_AHEAD, _AT_LEAST = 2.0, 8
"""A session leaves a replica that has this many times the calls in flight of the least busy one, and so many more."""
_IN_USE_S = 60.0
_MOST = 100_000
"""Sessions that are remembered; one that was never sealed is forgotten some day."""


@dataclass(slots=True)
class _Place:
    replica: str
    used_s: float


class Placement:
    """The replica of each session in use."""

    def __init__(self) -> None:
        """Start without a session."""
        self._places: OrderedDict[str, _Place] = OrderedDict()
        """Session → its place, the one used last at the end."""
        self.moved = 0
        """How often a session was sent to another replica than the one before."""

    def choose(self, session: str | None, in_flight: Mapping[str, int]) -> str:
        """Return the replica for a call.

        Args:
            session: Whose call it is; None for a call that belongs to no rollout, which goes where least is to do.
            in_flight: Replica → its calls in flight, of those that can be sent calls now; at least one.
        """
        if session is None:
            return min(in_flight, key=in_flight.__getitem__)
        place, now = self._places.get(session), time.monotonic()
        if place is None or place.replica not in in_flight or _is_far_ahead(place.replica, in_flight):
            self.moved += place is not None
            self._places.pop(session, None)
            place = _Place(self._place(session, in_flight, None if place is None else place.replica), now)
            self._places[session] = place
            if len(self._places) > _MOST:
                self._places.popitem(last=False)
        place.used_s = now
        self._places.move_to_end(session)
        return place.replica

    def leave(self, session: str) -> None:
        """Forget a session that has ended."""
        self._places.pop(session, None)

    def sessions(self) -> dict[str, int]:
        """Return replica → how many of the sessions in use it has."""
        counts: dict[str, int] = {}
        since = time.monotonic() - _IN_USE_S
        for place in reversed(self._places.values()):
            if place.used_s < since:
                break
            counts[place.replica] = counts.get(place.replica, 0) + 1
        return counts

    def _place(self, session: str, in_flight: Mapping[str, int], left: str | None) -> str:
        """Return the first replica, in the session's own order, that has room; not the one it has just left."""
        counts = self.sessions()
        able = [name for name in in_flight if name != left] or list(in_flight)
        room = math.ceil(SLACK * (sum(counts.get(name, 0) for name in in_flight) + 1) / len(in_flight))
        order = sorted(able, key=lambda name: _weight(session, name), reverse=True)
        return next((name for name in order if counts.get(name, 0) < room), order[0])


def _is_far_ahead(replica: str, in_flight: Mapping[str, int]) -> bool:
    least = min(in_flight.values())
    return in_flight[replica] >= max(_FAR_AHEAD * least, least + _AT_LEAST)


def _weight(session: str, replica: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{replica}\0{session}".encode(), digest_size=8).digest())
