"""Run the agent once on one scenario and return its trajectory, also when the agent fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from woodshed.capture import AgentSide, Rollout, RolloutFunction, agent_side, bind, join, new_id
from woodshed.engine.client.client import EngineClient
from woodshed.errors import EngineError, RolloutError, RolloutTimeout
from woodshed.training.rollouts.cause import rollout_failure
from woodshed.types import Failure, OpenSession, SessionGrant, Status, Trajectory

_log = logging.getLogger("woodshed.training")
_SEAL_WITHIN_S = 5.0
_SEAL_TRIES = 3


Place = Callable[[Any, Rollout, float], Awaitable[AgentSide]]
"""Where an agent runs, if not in this process: takes the scenario, the rollout and its time limit in seconds, and
returns how it ended, whatever happens to it."""


class Ended(NamedTuple):
    """How an agent ended."""

    status: Status
    error: Failure | None
    output: Any


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
    place: Place | None = None,
) -> Trajectory:
    """Return the trajectory of one rollout. A failure or timeout of the agent is stored on it and does not raise.

    The agent runs in this process, or in `place`, which has the function already.

    Raises:
        EngineError: the engine could not open or seal the session.
    """
    request = OpenSession(rollout_id=rollout_id or new_id(), policy=policy, sampling=sampling)
    try:
        return await _run_session(function, scenario, scenario_id, client, request, timeout_s, place)
    except asyncio.CancelledError:
        # The run is being stopped: to the engine, an open session is a rollout still in progress.
        await seal_stopped(client, request.rollout_id)
        raise


async def _run_session(
    function: RolloutFunction,
    scenario: Any,
    scenario_id: str,
    client: EngineClient,
    request: OpenSession,
    timeout_s: float,
    place: Place | None,
) -> Trajectory:
    grant = await opened(client, request)
    active = Rollout(
        base_url=grant.base_url,
        secret=grant.secret,
        scenario_id=scenario_id,
        rollout_id=grant.rollout_id,
        run_id=grant.run_id,
    )
    # Both times are of this process, so that no other clock matters.
    started, clock = time.time(), time.perf_counter()
    if place is not None:
        side = await place(scenario, active, timeout_s)
        sealed = await client.seal(active.rollout_id)
    else:
        ended = await run_agent(function, scenario, active, timeout_s)
        sealed = await client.seal(active.rollout_id)
        side = agent_side(active, status=ended.status, error=ended.error, output=ended.output)
    return join(side, sealed, started_s=started, latency_s=time.perf_counter() - clock)


async def run_agent(function: RolloutFunction, scenario: Any, active: Rollout, timeout_s: float) -> Ended:
    """Run the agent in this process, and return how it ended: its failure or timeout is data, and does not raise."""
    status: Status = "completed"
    error = output = None
    try:
        output = await run_with_timeout(function, scenario, active, timeout_s)
    except RolloutTimeout as late:
        status, error = "timed_out", rollout_failure(late)
    except Exception as raised:
        # The one place where an agent's failure becomes data: other rollouts continue, and the group masks this one.
        status, error = "failed", rollout_failure(raised)
        _log.debug("rollout %s failed", active.rollout_id, exc_info=True)
    if active.error is not None:
        # An error of woodshed's own is the cause, whatever the agent made of it: a tool's result, a fallback, a retry.
        status, error = "failed", rollout_failure(active.error)
    return Ended(status, error, output)


async def seal_stopped(client: EngineClient, rollout_id: str) -> None:
    """Seal the session of a rollout that is being stopped; a failure is said, and the run stops all the same."""
    failure: Exception | None = None
    # Again, because requests that are cancelled beside it may cost this one its connection.
    for _ in range(_SEAL_TRIES):
        try:
            await asyncio.wait_for(client.seal(rollout_id), _SEAL_WITHIN_S)
            return
        except (EngineError, TimeoutError) as error:
            failure = error
    _log.warning(
        "the session of rollout %s was not closed (%r); until it is a minute old, the engine takes it for one in "
        "progress and gives its policy to no other run", rollout_id, failure,
    )  # fmt: skip


async def opened(client: EngineClient, request: OpenSession) -> SessionGrant:
    """Open a rollout's session. A cancellation waits until the engine has answered.

    Otherwise the seal that follows could overtake the request, and leave open a session that no one knows of.
    """
    opening = asyncio.ensure_future(client.open_session(request))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait({opening}, timeout=_SEAL_WITHIN_S)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        raise


async def run_with_timeout(function: RolloutFunction, scenario: Any, active: Rollout, timeout_s: float) -> Any:
    """Run the agent's function and return its output.

    Raises:
        RolloutTimeout: it took longer than `timeout_s` seconds.
        RolloutError: it called `sys.exit` or let a cancellation of its own out.
    """

    async def inside() -> Any:
        with bind(active):
            try:
                if function.is_async:
                    return await function(scenario)
                return await asyncio.to_thread(function, scenario)
            except SystemExit as exit_request:
                # It would end the whole run, not only the agent.
                raise RolloutError(
                    f"the agent called sys.exit({exit_request.code!r}); the rollout is masked"
                ) from exit_request

    task = asyncio.ensure_future(inside())
    done, _ = await _wait(task, timeout_s)
    if not done:
        task.cancel()
        # The thread of a sync rollout cannot be stopped. Its session is sealed next, so its next model call is refused.
        await asyncio.wait({task}, timeout=1.0)
        raise RolloutTimeout(
            f"the rollout took longer than rollout_timeout_s={timeout_s:g}; it is masked. Raise the limit if the agent "
            "is slow rather than stuck"
        )
    if task.cancelled():
        raise RolloutError(
            "the agent ended with asyncio.CancelledError although the run did not cancel it: a timeout or "
            "cancel scope inside it leaked its cancellation; the rollout is masked"
        )
    return task.result()


async def _wait(task: asyncio.Future[Any], timeout_s: float) -> tuple[set[Any], set[Any]]:
    try:
        return await asyncio.wait({task}, timeout=timeout_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
