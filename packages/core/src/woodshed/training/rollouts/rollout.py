"""Run the agent once on one scenario, and bring back its trajectory whatever happens."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

from woodshed.capture import Rollout, RolloutFunction, assemble, bind, new_id
from woodshed.capture.recorder import failure
from woodshed.engine.client.client import EngineClient
from woodshed.errors import EngineError, RolloutError, RolloutTimeout
from woodshed.types import OpenSession, Status, Trajectory

_log = logging.getLogger("woodshed.training")
_SEAL_WITHIN_S = 5.0


async def run_rollout(
    function: RolloutFunction,
    scenario: Any,
    *,
    scenario_id: str,
    client: EngineClient,
    policy: str,
    sampling: dict[str, Any],
    timeout_s: float,
    rollout_id: str | None = None,
) -> Trajectory:
    """Return the trajectory of one rollout; its own failure or timeout is data on it, never an exception here.

    Raises:
        EngineError: the engine could not open or seal the session, which is not the rollout's fault.
    """
    asked = OpenSession(rollout_id=rollout_id or new_id(), policy=policy, sampling=sampling)
    try:
        return await _rolled_out(function, scenario, scenario_id, client, asked, timeout_s)
    except asyncio.CancelledError:
        # The run ends: an open session would look to the engine like a rollout that is still practising.
        with suppress(EngineError, TimeoutError):
            await asyncio.wait_for(client.seal(asked.rollout_id), _SEAL_WITHIN_S)
        raise


async def _rolled_out(
    function: RolloutFunction,
    scenario: Any,
    scenario_id: str,
    client: EngineClient,
    asked: OpenSession,
    timeout_s: float,
) -> Trajectory:
    grant = await client.open_session(asked)
    scope = Rollout(base_url=grant.base_url, secret=grant.secret, scenario_id=scenario_id, rollout_id=grant.rollout_id)
    started, clock = time.time(), time.perf_counter()
    status: Status = "completed"
    error = output = None
    try:
        output = await _bounded(function, scenario, scope, timeout_s)
    except RolloutTimeout as late:
        status, error = "timed_out", failure(late)
    except Exception as raised:
        # The one boundary where a rollout's failure becomes data: siblings go on, the group masks it.
        status, error = "failed", failure(raised)
        _log.debug("rollout %s failed", scope.rollout_id, exc_info=True)
    sealed = await client.seal(scope.rollout_id)
    return assemble(
        scope,
        sealed,
        status=status,
        error=error,
        output=output,
        started_s=started,
        latency_s=time.perf_counter() - clock,
    )


async def _bounded(function: RolloutFunction, scenario: Any, scope: Rollout, timeout_s: float) -> Any:
    async def inside() -> Any:
        with bind(scope):
            try:
                if function.is_async:
                    return await function(scenario)
                return await asyncio.to_thread(function, scenario)
            except SystemExit as wish:
                # Outside a rollout it would end the agent's process; here it would end the run.
                raise RolloutError(f"the agent called sys.exit({wish.code!r}); the rollout is masked") from wish

    task = asyncio.ensure_future(inside())
    done, _ = await _wait(task, timeout_s)
    if not done:
        task.cancel()
        # A sync rollout's thread cannot be stopped; its session is sealed next, so its next model call is refused.
        await asyncio.wait({task}, timeout=1.0)
        raise RolloutTimeout(
            f"the rollout took longer than rollout_timeout_s={timeout_s:g}; it is masked. Raise the limit if the agent "
            "is slow rather than stuck"
        )
    if task.cancelled():
        raise RolloutError(
            "the agent ended with asyncio.CancelledError although nobody cancelled it: a timeout or cancel scope in "
            "it let its own cancellation out; the rollout is masked"
        )
    return task.result()


async def _wait(task: asyncio.Future[Any], timeout_s: float) -> tuple[set[Any], set[Any]]:
    try:
        return await asyncio.wait({task}, timeout=timeout_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
