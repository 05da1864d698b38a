"""What a run has used so far, over all its lives: seconds, memory, LoRA swaps, failed calls, restarts of vLLM."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from woodshed.engine.client.client import EngineClient
from woodshed.errors import EngineError, StorageError
from woodshed.training.run.store import RunStore
from woodshed.types import EngineHealth

_log = logging.getLogger("woodshed.training")
_EVERY_S = 1.0
_FACT = "totals"
_COUNTERS = ("lora_swaps", "failed_calls", "engine_restarts")


class RunTotals:
    """Adds this life's seconds and memory to those of the run's earlier ones, and saves everything every second.

    So a client that is killed loses at most the last second. The engine counts for the run over all lives of its own.
    """

    def __init__(self, store: RunStore) -> None:
        """Go on from what the store has."""
        self._store = store
        self._clock = time.monotonic()
        kept: dict[str, Any] = store.fact(_FACT) or {}
        self.seconds = float(kept.get("seconds", store.fact("seconds") or 0.0))
        self.peak_rss_mb = float(kept.get("peak_rss_mb", 0.0))
        self.counted: dict[str, int] = {name: int(kept.get(name, 0)) for name in _COUNTERS}
        """What the run has used of the engine, by the names of `Summary`."""

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[RunTotals]:
        """Count the seconds of the block, however it ends."""
        self._clock = time.monotonic()
        try:
            async with _beside(self._every_second(self._save)):
                yield self
        finally:
            with suppress(StorageError):  # the block's own error says so already, or the next write will
                self._save()

    @asynccontextmanager
    async def of(self, client: EngineClient) -> AsyncIterator[None]:
        """Keep what the engine behind `client` counts for the run during the block."""

        async def sampled() -> None:
            try:
                await self.sample(client)
            except EngineError as error:
                _log.debug("no sample of the engine's counters: %s", error)

        async with _beside(self._every_second(sampled)):
            yield

    async def sample(self, client: EngineClient) -> EngineHealth:
        """Read the engine's counters now, save them, and return its health.

        Raises:
            EngineError: the engine does not answer.
        """
        health = await client.health()
        # Before the run has opened its policy, what the engine counts is another run's.
        if self._store.run_id() in health.run_ids:
            self.counted = _counters(health)
        self.peak_rss_mb = max(self.peak_rss_mb, health.rss_mb + _own_peak_mb())
        self._save()
        return health

    def elapsed(self) -> float:
        """Return the run's seconds so far."""
        return self.seconds + time.monotonic() - self._clock

    def _save(self) -> None:
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        self._store.save_fact(_FACT, {"seconds": self.seconds, "peak_rss_mb": self.peak_rss_mb, **self.counted})

    async def _every_second(self, work: Callable[[], Awaitable[None] | None]) -> None:
        while True:
            try:
                if (waited := work()) is not None:
                    await waited
            except StorageError as error:
                _log.debug("the run's totals were not saved: %s", error)
            await asyncio.sleep(_EVERY_S)


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do `work` while the block runs, and end it with the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        # Whatever it ended with is not what the block ends with.
        await asyncio.gather(task, return_exceptions=True)


def _counters(health: EngineHealth) -> dict[str, int]:
    restarts = sum(model.restarts for model in health.models)
    return {"lora_swaps": health.lora_swaps, "failed_calls": health.failed_calls, "engine_restarts": restarts}


def _own_peak_mb() -> float:
    """Return the peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)
