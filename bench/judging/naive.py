"""The naive way to ask a judge: attempts in the order they came, their text unguarded, scores assigned by position."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from woodshed.types import Trajectory

SYSTEM = (
    'Score each trajectory from 0 to 1. Answer with JSON: {"scores": [{"id": "1", "explanation": "", "score": 0.5}]}'
)
Ask = Callable[[str, str, dict[str, Any]], Awaitable[str]]


async def naive_scores(ask: Ask, trajectories: Sequence[Trajectory]) -> list[Any] | None:
    """Return the reply's scores in order, unchecked; None where the reply is not JSON."""
    return scores_by_place(await ask(SYSTEM, naive_request(trajectories), {}))


def naive_request(trajectories: Sequence[Trajectory]) -> str:
    """Return the request: every attempt in full, between plain tags."""
    return "\n".join(
        f'<trajectory id="{number}">\n{_text(t)}\n</trajectory>' for number, t in enumerate(trajectories, 1)
    )


def scores_by_place(reply: str) -> list[Any] | None:
    """Return the scores in the order in which the reply has them."""
    try:
        parsed = json.JSONDecoder().raw_decode(reply, reply.index("{"))[0]
        return [entry["score"] for entry in parsed["scores"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _text(trajectory: Trajectory) -> str:
    last = trajectory.calls[-1].tokens
    lines = [f"{m.role}: {m.content or ''}" for m in (*last.messages, last.completions[0].message)]
    return "\n".join(lines)
