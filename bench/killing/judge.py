"""A judge on loopback behind a gate: it counts what is asked of it, and answers only while the gate is open."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

from woodshed.testing.engine import ScriptedEngine
from woodshed.testing.replies import Reply, say


class GatedJudge:
    """Ranks attempts by their letter, so that no group is flat."""

    def __init__(self) -> None:
        """Start with a closed gate."""
        self.paid_twice = 0
        """Requests for a verdict that had been given before; those in flight at a kill are not among them."""
        self._given: Counter[str] = Counter()
        self._waiting: dict[int, str] = {}
        self._open = False
        self._life = 0
        self._changed = threading.Condition()
        self._server = ScriptedEngine(self._answer)

    @property
    def url(self) -> str:
        """Base URL."""
        return self._server.base_url

    @property
    def waiting(self) -> int:
        """How many requests have been received and not been answered."""
        with self._changed:
            return len(self._waiting)

    @property
    def verdicts(self) -> int:
        """How many verdicts were given."""
        return sum(self._given.values())

    def open(self, is_open: bool = True) -> None:
        """Open or close the gate."""
        with self._changed:
            self._open = is_open
            self._changed.notify_all()

    def forget_waiting(self) -> None:
        """Drop requests whose client is dead; nobody has heard an answer to them."""
        with self._changed:
            self._life += 1
            self._open = False
            self._changed.notify_all()

    def __enter__(self) -> Self:
        """Listen."""
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.forget_waiting()
        self._server.close()

    def _answer(self, request: dict[str, Any]) -> Reply:
        asked = json.dumps(request["messages"])
        letters = re.findall(r"^<attempt (\w+) ", request["messages"][1]["content"], re.MULTILINE)
        entries = [{"id": i, "explanation": "because", "score": 0.9 - 0.2 * k} for k, i in enumerate(sorted(letters))]
        me = threading.get_ident()
        with self._changed:
            life = self._life
            self._waiting[me] = asked
            self._changed.wait_for(lambda: self._open or self._life != life)
            del self._waiting[me]
            if self._life != life:
                return Reply(status=503)
            self.paid_twice += self._given[asked] > 0
            self._given[asked] += 1
        return say(json.dumps({"scores": entries}))
