"""Join the two planes of a rollout by call id into its trajectory."""

from __future__ import annotations

import json
import logging
from typing import Any

from pydantic import Field

from woodshed.capture.plain import to_plain, to_text
from woodshed.capture.rollout import Rollout
from woodshed.types import (
    CallMetadata,
    Failure,
    ModelCall,
    Record,
    SealedSession,
    Status,
    TokenCall,
    ToolCall,
    Trajectory,
)

_log = logging.getLogger("woodshed.capture")


class AgentSide(Record):
    """What is known of a rollout where its agent ran: everything but the tokens, which its engine has.

    Plain data, so that an agent may run in another process than the training.
    """

    rollout_id: str
    scenario_id: str
    status: Status
    error: Failure | None = None
    output: Any = None
    metrics: dict[str, float] = Field(default_factory=dict)
    calls: tuple[CallMetadata, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


def agent_side(rollout: Rollout, *, status: Status, error: Failure | None = None, output: Any = None) -> AgentSide:
    """Return what the hooks recorded of a rollout, and how its agent ended."""
    return AgentSide(
        rollout_id=rollout.rollout_id,
        scenario_id=rollout.scenario_id,
        status=status,
        error=error,
        output=_plain(output),
        metrics=_metrics(output),
        calls=rollout.recorder.notes(),
        tool_calls=rollout.recorder.tool_calls(),
    )


def assemble(
    rollout: Rollout,
    sealed: SealedSession,
    *,
    status: Status,
    error: Failure | None = None,
    output: Any = None,
    started_s: float = 0.0,
    latency_s: float = 0.0,
) -> Trajectory:
    """Return the trajectory of a rollout of this process; see `join`."""
    side = agent_side(rollout, status=status, error=error, output=output)
    return join(side, sealed, started_s=started_s, latency_s=latency_s)


def join(side: AgentSide, sealed: SealedSession, *, started_s: float = 0.0, latency_s: float = 0.0) -> Trajectory:
    """Return the rollout's trajectory: every call the engine served, with what the hooks noted under its id.

    A call the hooks noted but the engine never saw (refused, or cut before it arrived) is kept with its error and
    without tokens.
    """
    notes = {note.call_id: note for note in side.calls}
    served = {call.call_id for call in sealed.calls}
    calls = [ModelCall(tokens=call, note=notes.get(call.call_id)) for call in sealed.calls]
    for note in notes.values():
        if note.call_id not in served:
            unseen = note.error or Failure(kind="NotServed", message="the engine has no record of this call")
            lost = TokenCall(call_id=note.call_id, started_s=started_s, latency_s=0.0, messages=(), error=unseen)
            calls.append(ModelCall(tokens=lost, note=note))
    return Trajectory(
        rollout_id=side.rollout_id,
        scenario_id=side.scenario_id,
        status=side.status,
        calls=tuple(calls),
        tool_calls=side.tool_calls,
        output=side.output,
        metrics=side.metrics,
        error=side.error,
        started_s=started_s,
        latency_s=latency_s,
    )


def _plain(output: Any) -> Any:
    """Return the output after a JSON round trip, or None, with a line in the log, where it is not JSON."""
    try:
        return to_plain(json.loads(json.dumps(output)))
    except (TypeError, ValueError, RecursionError):
        _log.debug("a rollout returned %s, which is not plain JSON; it is not kept", type(output).__name__)
        return None


def _metrics(output: Any) -> dict[str, float]:
    metrics = output.get("metrics") if isinstance(output, dict) else None
    if not isinstance(metrics, dict):
        return {}
    return {to_text(k): float(v) for k, v in metrics.items() if isinstance(v, (int, float))}
