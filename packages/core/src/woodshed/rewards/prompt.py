"""Group → the one request a judge gets: shared part once, attempts fenced, answer keyed by id."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from woodshed.rewards.partial_scores import UNNAMED, Detail, Parts, parts_of, schema_of
from woodshed.rewards.transcript import (
    Block,
    History,
    common_prefix,
    histories,
    message_blocks,
    render_messages,
    render_tools,
    sendable,
)
from woodshed.rewards.truncate import compacted, cut_middle
from woodshed.types import Trajectory

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
    parts: dict[str, Parts]
    """Attempt id → what of it must have a score of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What the request is made of besides the attempts."""

    rubric: str
    attempt_chars: int | None = None
    """Longest text of one attempt, in characters; None shows all of it."""
    details: tuple[Detail, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcripts:
    """The attempts of a group as text."""

    shared: str
    """What all attempts begin with: task, system prompt, tools."""
    attempts: tuple[str, ...]
    parts: tuple[Parts, ...]
    is_cut: tuple[bool, ...]
    """Whether the judge sees less of an attempt than there is."""


def default_rubric() -> str:
    """Return the rubric used where the user names none."""
    return prompt_text("rubric.md").strip()


def build_prompt(trajectories: Sequence[Trajectory], *, order: Sequence[int], form: Form, salt: str) -> JudgePrompt:
    """Return the judge's request for `trajectories`, shown in the given `order` (a permutation of their indices).

    `salt` makes the fence code unguessable; the code is drawn again until no recorded text contains it, so that
    nothing inside a fence can close it.
    """
    told = transcripts([trajectories[i] for i in order], form)
    fence = _fence(salt, [told.shared, *told.attempts])
    ids = attempt_ids(len(order))
    blocks = [f"fence code: {fence}", f"<task {fence}>\n{told.shared}\n</task {fence}>"]
    blocks += [
        f"<attempt {i} {fence}>\n{text}\n</attempt {i} {fence}>" for i, text in zip(ids, told.attempts, strict=True)
    ]
    return JudgePrompt(
        system=_system(form),
        user="\n".join(blocks),
        rollout_of={i: trajectories[place].rollout_id for i, place in zip(ids, order, strict=True)},
        schema=answer_schema(ids, form.details),
        parts=dict(zip(ids, told.parts, strict=True)),
    )


def _system(form: Form) -> str:
    system = prompt_text("ruler_system.md").format(rubric=form.rubric).strip()
    return "\n".join([system, *(prompt_text(f"{detail}.md").strip() for detail in form.details)])


def prompt_text(name: str) -> str:
    """Return one of the prompts that come with woodshed."""
    return (resources.files("woodshed.rewards") / "prompts" / name).read_text()


def transcripts(trajectories: Sequence[Trajectory], form: Form) -> Transcripts:
    """Return the text all attempts share (task, system prompt, tools) and each attempt's own text."""
    told = [histories(t) for t in trajectories]
    firsts = [h[0].messages for h in told if h]
    cut = min(common_prefix(firsts), min((len(m) - 1 for m in firsts), default=0)) if firsts else 0
    tools = next((h[0].tools for h in told if h and h[0].tools), ())
    shared = render_messages(firsts[0][:cut]) if firsts else ""
    if tools:
        shared += "\n" + render_tools(tools)
    blocks = [_blocks(h, cut, t, form) for h, t in zip(told, trajectories, strict=True)]
    whole = ["\n".join(b.text for b in of) for of in blocks]
    longest = form.attempt_chars
    shown = whole if longest is None else [compacted(of, longest) for of in blocks]
    return Transcripts(
        shared=shared if longest is None else cut_middle(shared, longest),
        attempts=tuple(shown),
        parts=tuple(parts_of(h, form.details) for h in told),
        is_cut=tuple(a != b for a, b in zip(whole, shown, strict=True)),
    )


def _blocks(told: Sequence[History], cut: int, of: Trajectory, form: Form) -> list[Block]:
    if not told:
        return [Block(role="note", text="(the model was never called)")]
    failed = {c.tool_call_id for c in of.tool_calls if c.error is not None and c.tool_call_id is not None}
    step, made = 1, []
    for number, history in enumerate(told):
        skipped = cut if number == 0 else 0
        if number:
            made.append(_note(f"another conversation of this attempt, agent {history.agent or UNNAMED}"))
        elif "agents" in form.details:
            made.append(_note(f"agent {history.agent or UNNAMED}"))
        steps = {place - skipped: step + k for k, (place, _) in enumerate(history.calls)}
        step += len(history.calls)
        made += message_blocks(
            history.messages[skipped:],
            known=history.messages[:skipped],
            failed=failed,
            steps=steps if "steps" in form.details else None,
        )
    return made


def _note(text: str) -> Block:
    return Block(role="note", text=f"-- {' '.join(sendable(text).split())} --")


def attempt_ids(count: int) -> list[str]:
    """Return `A`, `B`, … `Z`, `AA`, `AB`, … as many as asked for."""
    letters = string.ascii_uppercase
    return [letters[i] if i < 26 else letters[i // 26 - 1] + letters[i % 26] for i in range(count)]


def answer_schema(ids: Sequence[str], details: Sequence[Detail] = ()) -> dict[str, Any]:
    """Return the JSON Schema of a verdict on the attempts `ids`: explanation before score, one entry an id."""
    finer = schema_of(details)
    entry = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "enum": list(ids)},
            "explanation": {"type": "string"},
            **finer,
            "score": {"type": "number", "minimum": 0, "maximum": 1},
        },
        "required": ["id", "explanation", *finer, "score"],
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
