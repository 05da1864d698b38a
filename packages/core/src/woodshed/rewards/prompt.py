"""Group → one judge request: the shared part once, each attempt fenced, the answer keyed by attempt id.

Follows RULER (https://art.openpipe.ai/fundamentals/ruler), with random fences against instructions inside an attempt.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable, Sequence
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
from woodshed.rewards.truncate import cut_middle, truncated
from woodshed.types import Trajectory

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_FENCE_LENGTH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePrompt:
    """One request to a judge."""

    system: str
    user: str
    rollout_of: dict[str, str]
    """Attempt id as the judge sees it, such as `A` → rollout id."""
    schema: dict[str, Any]
    """JSON Schema of the reply, for judges with structured output."""
    parts: dict[str, Parts]
    """Attempt id → its parts that need a score of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSettings:
    """What a judge request contains besides the attempts."""

    rubric: str
    """What a good attempt is, in words."""
    attempt_chars: int | None = None
    """Longest text of one attempt, in characters; None means no limit."""
    details: tuple[Detail, ...] = ()
    """Parts of an attempt to score as well."""
    explanation_chars: int | None = None
    """Longest explanation that the reply's schema allows; None for servers that may not know such a limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcripts:
    """The attempts of a group as text."""

    shared: str
    """What all attempts start with: task, system prompt, tools."""
    attempts: tuple[str, ...]
    parts: tuple[Parts, ...]
    is_cut: tuple[bool, ...]
    """Whether an attempt was truncated."""


def default_rubric() -> str:
    """Return the rubric used when the user gives none."""
    return prompt_text("rubric.md").strip()


def build_prompt(
    trajectories: Sequence[Trajectory], *, order: Sequence[int], settings: PromptSettings, salt: str
) -> JudgePrompt:
    """Return the judge's request for `trajectories`, shown in the given `order` (a permutation of their indices).

    The fence code depends on `salt`. It is drawn again until no attempt contains it, so that no text inside a fence can
    close the fence.
    """
    texts = transcripts([trajectories[i] for i in order], settings)
    fence = fence_code(salt, [texts.shared, *texts.attempts])
    ids = attempt_ids(len(order))
    return JudgePrompt(
        system=_system(settings),
        user=fenced(fence, texts.shared, zip(ids, texts.attempts, strict=True)),
        rollout_of={i: trajectories[index].rollout_id for i, index in zip(ids, order, strict=True)},
        schema=answer_schema(ids, settings.details, settings.explanation_chars),
        parts=dict(zip(ids, texts.parts, strict=True)),
    )


def fenced(fence: str, task: str, attempts: Iterable[tuple[str, str]]) -> str:
    """Return the task and the attempts, given as pairs of id and text, each between tags with the fence code."""
    blocks = [f"fence code: {fence}", f"<task {fence}>\n{task}\n</task {fence}>"]
    blocks += [f"<attempt {i} {fence}>\n{text}\n</attempt {i} {fence}>" for i, text in attempts]
    return "\n".join(blocks)


def _system(settings: PromptSettings) -> str:
    system = prompt_text("ruler_system.md").format(rubric=settings.rubric).strip()
    return "\n".join([system, *(prompt_text(f"{detail}.md").strip() for detail in settings.details)])


def prompt_text(name: str) -> str:
    """Return a prompt file of this package."""
    return (resources.files("woodshed.rewards") / "prompts" / name).read_text()


def transcripts(trajectories: Sequence[Trajectory], settings: PromptSettings) -> Transcripts:
    """Return the text all attempts share (task, system prompt, tools) and each attempt's own text."""
    conversations = [histories(t) for t in trajectories]
    firsts = [h[0].messages for h in conversations if h]
    prefix = min(common_prefix(firsts), min((len(m) - 1 for m in firsts), default=0)) if firsts else 0
    tools = next((h[0].tools for h in conversations if h and h[0].tools), ())
    shared = render_messages(firsts[0][:prefix]) if firsts else ""
    if tools:
        shared += "\n" + render_tools(tools)
    attempts = [_blocks(h, prefix, t, settings) for h, t in zip(conversations, trajectories, strict=True)]
    full = ["\n".join(block.text for block in blocks) for blocks in attempts]
    limit = settings.attempt_chars
    shown = full if limit is None else [truncated(blocks, limit) for blocks in attempts]
    return Transcripts(
        shared=shared if limit is None else cut_middle(shared, limit),
        attempts=tuple(shown),
        parts=tuple(parts_of(h, settings.details) for h in conversations),
        is_cut=tuple(a != b for a, b in zip(full, shown, strict=True)),
    )


def _blocks(
    conversations: Sequence[History], prefix: int, trajectory: Trajectory, settings: PromptSettings
) -> list[Block]:
    if not conversations:
        return [Block(role="note", text="(the model was never called)")]
    failed = {c.tool_call_id for c in trajectory.tool_calls if c.error is not None and c.tool_call_id is not None}
    next_step, blocks = 1, []
    for number, history in enumerate(conversations):
        skipped = prefix if number == 0 else 0
        if number:
            blocks.append(_note(f"another conversation of this attempt, agent {history.agent or UNNAMED}"))
        elif "agents" in settings.details:
            blocks.append(_note(f"agent {history.agent or UNNAMED}"))
        steps = {index - skipped: next_step + k for k, (index, _) in enumerate(history.calls)}
        next_step += len(history.calls)
        blocks += message_blocks(
            history.messages[skipped:],
            known=history.messages[:skipped],
            failed=failed,
            steps=steps if "steps" in settings.details else None,
        )
    return blocks


def _note(text: str) -> Block:
    return Block(role="note", text=f"-- {' '.join(sendable(text).split())} --")


def attempt_ids(count: int) -> list[str]:
    """Return `count` attempt ids: `A`, `B`, … `Z`, `AA`, `AB` and so on."""
    letters = string.ascii_uppercase
    return [letters[i] if i < 26 else letters[i // 26 - 1] + letters[i % 26] for i in range(count)]


def answer_schema(
    ids: Sequence[str], details: Sequence[Detail] = (), explanation_chars: int | None = None
) -> dict[str, Any]:
    """Return the JSON Schema of a verdict: one entry per attempt id, with the explanation before the score."""
    detail_schemas = schema_of(details)
    longest = {} if explanation_chars is None else {"maxLength": explanation_chars}
    entry = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "enum": list(ids)},
            "explanation": {"type": "string", **longest},
            **detail_schemas,
            "score": {"type": "number", "minimum": 0, "maximum": 1},
        },
        "required": ["id", "explanation", *detail_schemas, "score"],
        "additionalProperties": False,
    }
    scores = {"type": "array", "items": entry, "minItems": len(ids), "maxItems": len(ids)}
    return {"type": "object", "properties": {"scores": scores}, "required": ["scores"], "additionalProperties": False}


def fence_code(salt: str, texts: Sequence[str]) -> str:
    """Return a code that none of the texts contains; it depends on them and on `salt` only."""
    joined = "\n".join(texts)
    content = hashlib.sha256(f"{salt}:{joined}".encode()).hexdigest()
    for draw in range(10_000):
        digest = hashlib.sha256(f"{content}:{draw}".encode()).digest()
        # One character longer every 500 draws: a text that contains every short code cannot contain every longer one.
        code = "".join(_ALPHABET[b % len(_ALPHABET)] for b in digest[: _FENCE_LENGTH + draw // 500])
        if code not in joined:
            return code
    raise AssertionError("no fence code is free of the recorded text")
