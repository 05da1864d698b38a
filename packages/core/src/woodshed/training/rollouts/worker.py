"""A rollout worker's side: run the agent in an event loop of its own, and send home what the training would know."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import Field

from woodshed.capture import AgentSide, Rollout, RolloutFunction, agent_side, take_late_calls
from woodshed.capture.plain import to_text
from woodshed.training.rollouts.rollout import run_agent
from woodshed.types import Record

_T = TypeVar("_T")
_END_S = 5.0


class LogLine(Record):
    """A line of woodshed's own log."""

    logger: str
    level: int
    message: str


class Returned(Record):
    """What a worker sends home of a rollout, or when it ends."""

    side: AgentSide | None = None
    late_calls: dict[str, int] = Field(default_factory=dict)
    log: tuple[LogLine, ...] = ()


class AgentHost:
    """Runs rollouts in this process, in an event loop in a thread of its own: Ray's is another kind of loop."""

    def __init__(self, parcel: bytes, rollouts: int) -> None:
        """Unpack the rollout function, and put the hooks in place that the training has.

        Args:
            parcel: what `worker_parcel` returned.
            rollouts: how many run at a time.

        Raises:
            Exception: what importing or unpickling it raises here.
        """
        contents = pickle.loads(parcel)
        self._lines = _Lines(contents["levels"])
        for kind in contents["instrumentors"]:
            kind().instrument()
        self._function = RolloutFunction(pickle.loads(contents["function"]))
        self._loop = asyncio.new_event_loop()
        # Each sync rollout takes a thread of these, and may hand its own work to others.
        threads = rollouts + min(32, (os.cpu_count() or 1) + 4)
        self._loop.set_default_executor(ThreadPoolExecutor(threads, thread_name_prefix="rollout"))
        threading.Thread(target=self._loop.run_forever, name="rollouts", daemon=True).start()

    async def run(self, scenario: bytes, rollout: dict[str, Any], timeout_s: float) -> str:
        """Return the `Returned` of one rollout as JSON; see `Rollout` for its details."""
        return await self._inside(self._run(pickle.loads(scenario), Rollout(**rollout), timeout_s))

    async def _run(self, scenario: Any, active: Rollout, timeout_s: float) -> str:
        ended = await run_agent(self._function, scenario, active, timeout_s)
        return self._returned(agent_side(active, status=ended.status, error=ended.error, output=ended.output))

    async def end(self) -> str:
        """Cancel what runs, give it a moment to clean up, and return what was not sent home yet."""
        return await self._inside(self._end())

    async def _end(self) -> str:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_END_S)
        return self._returned(None)

    async def _inside(self, work: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _returned(self, side: AgentSide | None) -> str:
        return Returned(side=side, late_calls=take_late_calls(), log=self._lines.take()).model_dump_json()


class _Lines(logging.Handler):
    """Keeps what woodshed logs, for the training to log in its place."""

    def __init__(self, levels: dict[str, int]) -> None:
        super().__init__()
        self._kept: list[LogLine] = []
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        ours = logging.getLogger("woodshed")
        ours.addHandler(self)
        ours.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(LogLine(logger=record.name, level=record.levelno, message=to_text(self.format(record))))

    def take(self) -> tuple[LogLine, ...]:
        kept, self._kept = self._kept, []
        return tuple(kept)
