"""Judges that know the built-in groups and answer them well or badly, in whatever mode they are asked."""

from __future__ import annotations

import json
from collections.abc import Callable

from loopback_judge import Request, attempts_of, verdict

from woodshed.rewards.known_groups import known_groups
from woodshed.rewards.prompt import PromptSettings, transcripts

GROUPS = known_groups()
WORTH = {
    text: 1 + g.worth[t.rollout_id] / 4
    for g in GROUPS
    for t, text in zip(g.trajectories, transcripts(g.trajectories, PromptSettings(rubric="-")).attempts, strict=True)
}
Answer = Callable[[Request], str]


def shown(request: Request) -> dict[str, float]:
    return {i: WORTH[text] for i, text in attempts_of(request["messages"][1]["content"]).items()}


def is_list(request: Request) -> bool:
    return "JSON" in request["messages"][0]["content"]


def label(worth: dict[str, float]) -> str:
    return str(round(9 * worth["A"])) if len(worth) == 1 else "A" if worth["A"] > worth["B"] else "B"


def honest(request: Request) -> str:
    return verdict(shown(request)) if is_list(request) else label(shown(request))


def copies(request: Request) -> str:
    """Qwen2.5-Coder-1.5B in a list of attempts: one explanation and one score for all of them."""
    if not is_list(request):
        return honest(request)
    same = [{"id": i, "explanation": "The attempt reaches the goal.", "score": 0.8} for i in shown(request)]
    return json.dumps({"scores": same})


def endless_alone(request: Request) -> str:
    """Can compare, but writes on and on about one attempt, and about a list."""
    return "It begins with " * 4 if is_list(request) or len(shown(request)) == 1 else honest(request)
