"""What a run has taken on this side of the engine, over all its lives: seconds, and memory at its peak.

The engine itself counts swaps, failed calls and restarts for each run, over all of its own lives.
"""

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
REPLICAS = "replicas"
"""Fact of a run: the state of each vLLM server behind its engine, as of a second ago, for `woodshed view`."""


class RunTotals:
    """Adds this life's figures to those of the run's earlier ones, and saves them every second.

    So a client that is killed loses at most the last second of them.
    """

    def __init__(self, store: RunStore) -> None:
        """Go on from what the store has."""
        self._store = store
        self._clock: float | None = None
        self._replicas: list[dict[str, Any]] | None = None
        kept: dict[str, Any] = store.fact(_FACT) or {}
        self._seconds = float(kept.get("seconds", store.fact("seconds") or 0.0))
        self.peak_rss_mb = float(kept.get("peak_rss_mb", 0.0))
        """Largest resident memory of this process with the engine and all its children, in MiB."""

    @property
    def seconds(self) -> float:
        """The run's seconds so far."""
        return self._seconds + (0.0 if self._clock is None else time.monotonic() - self._clock)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        """Count the seconds of the block, however it ends."""
        self._clock = time.monotonic()
        try:
            async with _beside(self._every_second(self._save)):
                yield
        finally:
            self._seconds, self._clock = self.seconds, None
            with suppress(StorageError):  # the block's own error says so already, or the next write will
                self._save()

    @asynccontextmanager
    async def of(self, client: EngineClient) -> AsyncIterator[None]:
        """Watch the memory of the engine behind `client` during the block."""

        async def sampled() -> None:
            try:
                self._save_replicas(await self.sample(client))
            except EngineError as error:
                _log.debug("no sample of the engine's memory: %s", error)

        async with _beside(self._every_second(sampled)):
            yield

    async def sample(self, client: EngineClient) -> EngineHealth:
        """Return the engine's health now, and note its memory.

        Raises:
            EngineError: the engine does not answer.
        """
        health = await client.health()
        self.peak_rss_mb = max(self.peak_rss_mb, health.rss_mb + _own_peak_mb())
        return health

    def _save_replicas(self, health: EngineHealth) -> None:
        replicas = [
            replica.model_dump(mode="json", exclude={"rss_mb"}) for model in health.models for replica in model.replicas
        ]
        if replicas != self._replicas:
            self._store.save_fact(REPLICAS, replicas)
            self._replicas = replicas

    def _save(self) -> None:
        self._store.save_fact(_FACT, {"seconds": self.seconds, "peak_rss_mb": self.peak_rss_mb})

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


def _own_peak_mb() -> float:
    """Return the peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)
