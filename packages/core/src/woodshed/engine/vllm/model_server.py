"""One vLLM server as the rest of the engine sees it: where it listens, and whether calls can be sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from woodshed.engine.client.config import ServedModel
from woodshed.errors import EngineError

_RESTARTS_PER_WINDOW = 5
_WINDOW_S = 600.0


class ModelServer:
    """One vLLM server: where it listens, whether it answers, how often it was restarted."""

    def __init__(self, model: ServedModel, log: Path) -> None:
        """Describe a server that is not started yet."""
        self.model = model
        self.log = log
        self.url = ""
        self.pid: int | None = None
        self.vllm = ""
        self.restarts = 0
        self.generation = 0
        """Counts the starts; a call remembers it, so that it knows whether *its* server has died."""
        self.is_started = False
        """Whether its death is news; one that dies while it starts is the starter's business."""
        self.prepare: Callable[[], Awaitable[None]] | None = None
        """Run after each start and before the first call, to load the adapter again."""
        self.fault: EngineError | None = None
        self._up = asyncio.Event()
        self._deaths: list[float] = []

    @property
    def is_ready(self) -> bool:
        """Whether calls can be sent right now."""
        return self._up.is_set() and self.fault is None

    async def ready(self) -> None:
        """Return when calls can be sent; raises EngineError where the server is given up."""
        await self._up.wait()
        if self.fault is not None:
            raise self.fault

    async def ready_after(self, generation: int, grace_s: float = 3.0) -> bool:
        """Wait for the start that follows `generation`; False where this generation still lives after the grace."""
        deadline = time.monotonic() + grace_s
        while self.generation == generation and self._up.is_set():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        await self.ready()
        return True

    def mark_up(self) -> None:
        """Let calls through."""
        self._up.set()

    def mark_down(self) -> None:
        """Hold calls back until the next start."""
        self._up.clear()

    def give_up(self, fault: EngineError) -> None:
        """Answer every waiting and later call with `fault`."""
        self.fault = fault
        self._up.set()

    def may_restart(self) -> bool:
        """Count one death; False where there were too many of late."""
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if now - at < _WINDOW_S] + [now]
        return len(self._deaths) <= _RESTARTS_PER_WINDOW

    def backoff_s(self) -> float:
        """Return how long to wait before the next start."""
        return 0.0 if len(self._deaths) <= 1 else min(10.0, 0.5 * 2.0 ** len(self._deaths))
