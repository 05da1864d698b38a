"""Open the rollout workers of a run, if it has any."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from woodshed.capture import RolloutFunction
from woodshed.training.config import Evaluation
from woodshed.training.report.progress import RunProgress
from woodshed.training.rollouts.ray_pool import RayPool
from woodshed.training.rollouts.ray_workers import RayWorkers, rollout_workers
from woodshed.training.run.store import RunStore


@asynccontextmanager
async def open_workers(
    workers: RayWorkers | None,
    function: RolloutFunction,
    scenarios: Sequence[Any],
    evaluation: Evaluation | None,
    store: RunStore,
    progress: RunProgress,
) -> AsyncIterator[RayPool | None]:
    """Start the workers and end them with the block; without any, the agent runs in this process.

    What happens to them later is kept with the run's warnings, and shown.
    """
    if workers is None:
        yield None
        return

    def warn(text: str) -> None:
        store.add_warnings([text])
        progress.warn([text])

    held_out = evaluation.scenarios if evaluation is not None else ()
    async with AsyncExitStack() as stack:
        with progress.phase("starting the rollout workers"):
            opening = rollout_workers(workers, function, [*scenarios, *held_out], warn)
            pool = await stack.enter_async_context(opening)
        yield pool
