"""One attempt: its conversations, its model calls in time and by agent, its score and what training made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from woodshed.errors import ConfigError
from woodshed.tokens import why_untrained
from woodshed.training.run.read_store import ReadStore
from woodshed.types import Judgement, ModelCall, Trajectory
from woodshed.view.conversation import Json, conversations, unread_tools
from woodshed.view.groups import stored_group, summary
from woodshed.view.reader import RunReader
from woodshed.view.training_state import training_states

_MOST_CHARS = 200_000
"""Characters of one text that a page is sent; what is beyond is only counted."""


def trajectory_at(store: ReadStore, slot: str) -> Trajectory:
    """Return the attempt stored at `step/scenario/number`.

    Raises:
        ConfigError: there is none.
    """
    if (found := store.trajectory(slot)) is None:
        raise ConfigError(f"the run has no attempt {slot!r}")
    return found


def attempt(run: RunReader, slot: str) -> Json:
    """Return everything about one attempt but its tokens.

    Raises:
        ConfigError: there is no such attempt.
    """
    group_id, _, number = slot.rpartition("/")
    step = group_id.partition("/")[0]
    settings = run.settings()
    with run.store() as store:
        found = trajectory_at(store, slot)
        judgement = store.judgement(group_id)
        measured = _measured(store, found.rollout_id, step)
        group = stored_group(store, group_id)
        states = training_states(store, settings, int(step), [group]) if step.isdigit() else {}
    siblings = [f"{group_id}/{n}" for n in range(len(group.trajectories))]
    at = int(number)
    return {
        **summary(found, at),
        "slot": slot,
        "group_id": group_id,
        "scenario": found.scenario_id,
        "step": int(step) if step.isdigit() else step,
        "score": _score(judgement, found.rollout_id),
        "measured": measured,
        "training": states.get(found.rollout_id),
        "conversations": conversations(found, limit=_MOST_CHARS),
        "timeline": timeline(found),
        "unread_tools": unread_tools(found),
        "previous": siblings[at - 1] if 0 < at <= len(siblings) else None,
        "next": siblings[at + 1] if at + 1 < len(siblings) else None,
    }


def _score(judgement: Judgement | None, rollout_id: str) -> Json | None:
    scores = judgement.scores if judgement else ()
    return next((s.model_dump(mode="json") for s in scores if s.rollout_id == rollout_id), None)


def _measured(store: ReadStore, rollout_id: str, slot: str) -> float | None:
    """Return the success of a held-out attempt, where the run keeps it."""
    values = store.fact(f"measured_{slot.replace('-', '_')}") or {}
    value = values.get(rollout_id)
    return None if value is None else float(value)


def timeline(found: Trajectory) -> list[Json]:
    """Return the model calls in the order of their start, each with its agent, its parent and its times in seconds."""
    calls = sorted(found.calls, key=lambda c: c.tokens.started_s)
    start = min([found.started_s or float("inf"), *(c.tokens.started_s for c in calls)], default=0.0)
    return [_call(call, start, calls) for call in calls]


def _call(call: ModelCall, start: float, calls: Sequence[ModelCall]) -> Json:
    tokens, note = call.tokens, call.note
    known = {c.tokens.call_id for c in calls}
    parent = note.parent_call_id if note else None
    answers = tokens.completions
    return {
        "call": tokens.call_id,
        "agent": note.agent if note else None,
        "task": note.task if note else None,
        "parent": parent if parent in known else None,
        "attempt": note.attempt if note else 1,
        "superseded": call.superseded,
        "at_s": tokens.started_s - start,
        "latency_s": tokens.latency_s,
        "prompt_tokens": len(tokens.prompt_ids),
        "sampled_tokens": sum(len(m.token_ids) for m in answers),
        "finish_reason": answers[0].finish_reason if answers else None,
        "versions": sorted({v for m in answers for v in m.weight_versions}),
        "retries": tokens.retries,
        "fork": tokens.fork,
        "continued_from": tokens.continued_from,
        "sampling": _plain_sampling(tokens.sampling),
        "untrained": "a framework's retry replaced the answer" if call.superseded else why_untrained(tokens),
        "tools": [r.name for m in answers for r in m.message.tool_requests],
        "error": None if tokens.error is None else str(tokens.error),
    }


def _plain_sampling(sampling: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sampling.items() if isinstance(value, str | int | float | bool)}
