"""Group → the one request a judge gets: shared part once, attempts fenced, answer keyed by id."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from etude.rewards.transcript import common_prefix, histories, render_messages, render_tools
from etude.types import Trajectory

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_FENCE_LENGTH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePrompt:
    """The request of one judgement."""

    system: str
    user: str
    rollout_of: dict[str, str]
    """Attempt id as the judge sees it → rollout id."""
    schema: dict[str, Any]
    """JSON Schema of the answer, for judges with structured output."""


def default_rubric() -> str:
    """Return the rubric used where the user names none."""
    return (resources.files("etude.rewards") / "prompts" / "rubric.md").read_text().strip()


def build_prompt(trajectories: Sequence[Trajectory], *, order: Sequence[int], rubric: str, salt: str) -> JudgePrompt:
    """Return the judge's request for `trajectories`, shown in the given `order` (a permutation of their indices).

    `salt` makes the fence code unguessable; the code is drawn again until no recorded text contains it, so that
    nothing inside a fence can close it.
    """
    shared, attempts = transcripts([trajectories[i] for i in order])
    fence = _fence(salt, [shared, *attempts])
    ids = attempt_ids(len(order))
    blocks = [f"fence code: {fence}", f"<task {fence}>\n{shared}\n</task {fence}>"]
    blocks += [f"<attempt {i} {fence}>\n{text}\n</attempt {i} {fence}>" for i, text in zip(ids, attempts, strict=True)]
    template = (resources.files("etude.rewards") / "prompts" / "ruler_system.md").read_text()
    return JudgePrompt(
        system=template.format(rubric=rubric).strip(),
        user="\n".join(blocks),
        rollout_of={i: trajectories[place].rollout_id for i, place in zip(ids, order, strict=True)},
        schema=answer_schema(ids),
    )


def transcripts(trajectories: Sequence[Trajectory]) -> tuple[str, list[str]]:
    """Return the text all attempts share (task, system prompt, tools) and each attempt's own text."""
    told = [histories(t) for t in trajectories]
    firsts = [h[0].messages for h in told if h]
    cut = min(common_prefix(firsts), min((len(m) - 1 for m in firsts), default=0)) if firsts else 0
    tools = next((h[0].tools for h in told if h and h[0].tools), ())
    shared = render_messages(firsts[0][:cut]) if firsts else ""
    if tools:
        shared += "\n" + render_tools(tools)
    return shared, [_attempt(h, cut) for h in told]


def _attempt(told: Sequence[Any], cut: int) -> str:
    if not told:
        return "(the model was never called)"
    parts = [render_messages(told[0].messages[cut:], known=told[0].messages[:cut])]
    for other in told[1:]:
        parts.append(f"-- another conversation of this attempt, agent {other.agent or '?'} --")
        parts.append(render_messages(other.messages))
    return "\n".join(parts)


def attempt_ids(count: int) -> list[str]:
    """Return `A`, `B`, … `Z`, `AA`, `AB`, … as many as asked for."""
    letters = string.ascii_uppercase
    return [letters[i] if i < 26 else letters[i // 26 - 1] + letters[i % 26] for i in range(count)]


def answer_schema(ids: Sequence[str]) -> dict[str, Any]:
    """Return the JSON Schema of a verdict on the attempts `ids`: explanation before score, one entry an id."""
    entry = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "enum": list(ids)},
            "explanation": {"type": "string"},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
        },
        "required": ["id", "explanation", "score"],
        "additionalProperties": False,
    }
    scores = {"type": "array", "items": entry, "minItems": len(ids), "maxItems": len(ids)}
    return {"type": "object", "properties": {"scores": scores}, "required": ["scores"], "additionalProperties": False}


def _fence(salt: str, texts: Sequence[str]) -> str:
    joined = "\n".join(texts)
    content = hashlib.sha256(f"{salt}:{joined}".encode()).hexdigest()
    for draw in range(10_000):
        digest = hashlib.sha256(f"{content}:{draw}".encode()).digest()
        # Longer after every 500 draws: a text made to hold every short code cannot hold every longer one.
        code = "".join(_ALPHABET[b % len(_ALPHABET)] for b in digest[: _FENCE_LENGTH + draw // 500])
        if code not in joined:
            return code
    raise AssertionError("no fence code is free of the recorded text")
