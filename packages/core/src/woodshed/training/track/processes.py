"""The trackers of a run, each in a process of its own, so that none can harm or delay it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from woodshed.engine.client.subprocesses import ended
from woodshed.training.run.store import RunStore
from woodshed.training.track.position import TRACKING, read_position

LAST_S = 60.0
"""Longest time that a finished run waits for its trackers."""
STOPPED_S = 10.0
"""The same for a run that was stopped, or failed."""
_QUIET_S = 1.0
_log = logging.getLogger("woodshed.training")


@asynccontextmanager
async def tracking(
    names: Sequence[str],
    store: RunStore,
    show: Callable[[str], None],
    *,
    last_s: float = LAST_S,
    stopped_s: float = STOPPED_S,
) -> AsyncIterator[None]:
    """Send the rows of the run in `store` to the trackers during the block, and what is left at its end.

    What a tracker does not take is warned of once: in the log, and among the run's warnings.

    Args:
        names: Trackers that are installed.
        store: The run; it stays open for the block.
        show: Called with each line that is worth showing.
        last_s: Seconds that the trackers have after the block.
        stopped_s: The same where the block was left by an error.
    """
    started = [_Process(name, store, show) for name in names]
    wait_s = stopped_s
    try:
        for process in started:
            await process.start()
        yield
        wait_s = last_s
    finally:
        await asyncio.gather(*(process.end(wait_s) for process in started))


def behind(names: Sequence[str], store: RunStore) -> list[str]:
    """Return the trackers that lack something of a finished run."""
    steps = len(store.history())
    return [name for name in names if read_position(store.folder, name).finished_steps != steps]


@dataclass(slots=True)
class _Process:
    """The process of one tracker."""

    name: str
    store: RunStore
    show: Callable[[str], None]
    process: asyncio.subprocess.Process | None = None
    listening: asyncio.Task[None] | None = None
    why: str | None = None
    """Why the tracker does not take what it is sent; None while it does."""
    warned: bool = field(default=False)

    async def start(self) -> None:
        """Start the process; it opens the tracked run by itself."""
        folder = self.store.folder / TRACKING
        try:
            folder.mkdir(exist_ok=True)
            with (folder / f"{self.name}.log").open("ab") as log:
                # `-P`: a file or folder of the user's that is called like a package is not that package. A session of
                # its own: Ctrl-C is for the run, which then ends its trackers.
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-m", "woodshed.training.track", self.name, str(self.store.folder.resolve()),
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            self._warn(f"its process cannot be started: {error}")
            return
        self.listening = asyncio.create_task(self._listen(self.process))

    async def end(self, wait_s: float) -> None:
        """Let the process send what is left, for at most `wait_s` seconds, and say what stays."""
        if self.process is None or self.listening is None:
            return
        clock = time.monotonic()
        if self.process.stdin is not None:
            self.process.stdin.close()
        waiting = asyncio.gather(self.process.wait(), self.listening)
        try:
            done, _ = await asyncio.wait([waiting], timeout=_QUIET_S)
            if not done:
                self.show(f"{self.name}: sending the rest, for at most {wait_s:.0f} s …")
                await asyncio.wait([waiting], timeout=max(wait_s - _QUIET_S, 0))
        finally:
            is_slow = self.process.returncode is None
            if is_slow:
                self._kill(self.process)
            await ended(self.process)
            await asyncio.gather(waiting, return_exceptions=True)
        if is_slow:
            self.why = self.why or f"it did not finish within {time.monotonic() - clock:.0f} s"
        elif self.process.returncode != 0:
            self.why = self.why or f"its process ended with status {self.process.returncode}"
        if self.why is not None:
            self._say_what_is_left()

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            with suppress(ValueError):  # cut off by a kill
                self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        match event:
            case {"event": "opened", "where": where}:
                self.show(f"{self.name}: {where}")
            case {"event": "warning", "why": why, "where": where}:
                self._warn(f"{why}. The run is {where}")
            case {"event": "failed", "why": why}:
                self.why = why
                self._warn(
                    f"{why}. The run goes on, and keeps all rows; they are sent when it works again. "
                    f"{self._later()} Its log: {self._log_file()}"
                )
            case {"event": "again"}:
                self.why = None
                self.show(f"{self.name}: it works again, and has what was missing")

    def _say_what_is_left(self) -> None:
        steps, position = len(self.store.history()), read_position(self.store.folder, self.name)
        text = f"{self.name} has {position.steps} of {steps} steps: {self.why}. {self._later()}"
        if self.warned:
            self.show(text)
        else:
            self._warn(f"{text} Its log: {self._log_file()}")

    def _later(self) -> str:
        own = read_position(self.store.folder, self.name).later
        again = "To send what is missing, run the same command again: nothing is trained twice."
        return again if own is None else f"To send what is kept on this machine: `{own}`."

    def _log_file(self) -> Path:
        return self.store.folder / TRACKING / f"{self.name}.log"

    def _warn(self, text: str) -> None:
        self.warned = True
        _log.warning("tracking with %s: %s", self.name, text)
        with suppress(Exception):  # the run's own next write says what is wrong with the disk
            self.store.add_warnings([f"tracking with {self.name}: {text}"])
