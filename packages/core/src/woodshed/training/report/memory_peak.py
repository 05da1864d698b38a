"""Peak memory of a run: this process plus the engine with all its child processes."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys

from woodshed.engine.client.client import EngineClient
from woodshed.errors import EngineError

_log = logging.getLogger("woodshed.training")
_EVERY_S = 2.0


class MemoryPeak:
    """Samples resident memory during a run."""

    def __init__(self, client: EngineClient) -> None:
        """Watch the engine behind `client` and this process."""
        self._client = client
        self.peak_mb = 0.0

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            await self.sample()
            await asyncio.sleep(_EVERY_S)

    async def sample(self) -> None:
        """Take one sample now."""
        try:
            engine_mb = (await self._client.health()).rss_mb
        except EngineError as error:
            _log.debug("no memory sample: %s", error)
            return
        self.peak_mb = max(self.peak_mb, engine_mb + own_peak_mb())


def own_peak_mb() -> float:
    """Return the peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 / (1024 if sys.platform == "darwin" else 1)
