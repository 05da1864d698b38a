"""A line now and then where no live line shows that a run is at work, such as in the log of a job."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Heartbeat:
    """Calls a function every so many seconds, from a thread of its own: a loop that is busy delays it no more."""

    def __init__(self, beat: Callable[[], None], every_s: float) -> None:
        """Prepare; `start` begins."""
        self._beat = beat
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="woodshed-progress", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for a call that is under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self._beat()
