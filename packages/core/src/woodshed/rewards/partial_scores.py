"""Scores for parts of an attempt: one per agent or one per step, when `Ruler.details` asks for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from woodshed.errors import ConfigError
from woodshed.rewards.transcript import History

Detail = Literal["agents", "steps"]
UNNAMED = "?"
"""Name shown to the judge for an agent without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts of one attempt that need a score of their own: names of agents, number of steps."""

    agents: tuple[str, ...] = ()
    steps: int = 0


def check_details(details: Sequence[str]) -> tuple[Detail, ...]:
    """Return the requested details, each once and in a fixed order.

    Raises:
        ConfigError: a name is neither `agents` nor `steps`.
    """
    known = get_args(Detail)
    if isinstance(details, str) or set(details) - set(known):
        raise ConfigError(f"Ruler.details is {details!r}; expected a tuple of names from {known}")
    return tuple(d for d in known if d in details)


def parts_of(conversations: Sequence[History], details: Sequence[Detail]) -> Parts:
    """Return the parts of an attempt that need a score."""
    agents = tuple(dict.fromkeys(h.agent or UNNAMED for h in conversations)) if "agents" in details else ()
    steps = sum(len(h.calls) for h in conversations) if "steps" in details else 0
    return Parts(agents=agents, steps=steps)


def schema_of(details: Sequence[Detail]) -> dict[str, Any]:
    """Return the JSON Schema properties that the details add to each entry of a verdict."""
    score = {"type": "number", "minimum": 0, "maximum": 1}
    agent = {
        "type": "object",
        "properties": {"agent": {"type": "string"}, "score": score},
        "required": ["agent", "score"],
        "additionalProperties": False,
    }
    schemas: dict[Detail, dict[str, Any]] = {
        "agents": {"type": "array", "items": agent},
        "steps": {"type": "array", "items": score},
    }
    return {d: schemas[d] for d in details}


@dataclass(frozen=True, kw_only=True, slots=True)
class PartScores:
    """The judge's scores of an attempt's parts."""

    agents: Mapping[str, float]
    steps: tuple[float, ...]


def read_parts(entry: Mapping[str, Any], attempt: str, parts: Parts) -> tuple[PartScores, list[str]]:
    """Return the scores of an attempt's parts, and every rule of the reply format that they break."""
    agents, problems = _read_agents(entry.get("agents"), attempt, parts.agents)
    steps = entry.get("steps")
    if parts.steps:
        if not isinstance(steps, list) or len(steps) != parts.steps:
            actual = f"{len(steps)} scores" if isinstance(steps, list) else repr(steps)[:80]
            problems.append(f"'steps' of {attempt!r} is {actual}; expected {parts.steps} scores, one a step")
        else:
            problems += [
                f"step {n} of {attempt!r} is scored {s!r:.40}; expected a number from 0 to 1"
                for n, s in enumerate(steps, 1)
                if not is_score(s)
            ]
    scored = tuple(float(s) for s in steps) if parts.steps and isinstance(steps, list) and not problems else ()
    return PartScores(agents=agents if not problems else {}, steps=scored), problems


def _read_agents(entries: Any, attempt: str, names: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    if not names:
        return {}, []
    scores: dict[str, float] = {}
    problems: list[str] = []
    for entry in entries if isinstance(entries, list) else ():
        name, score = (entry.get("agent"), entry.get("score")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(name, str) or name not in names or name in scores:
            problems.append(f"'agents' of {attempt!r} holds {entry!r:.80}; expected each of {list(names)} once")
        elif not is_score(score):
            problems.append(f"agent {name!r} of {attempt!r} is scored {score!r:.40}; expected a number from 0 to 1")
        else:
            scores[name] = float(entry["score"])
    missing = [n for n in names if n not in scores]
    if missing and not problems:
        problems.append(f"'agents' of {attempt!r} has no score for {', '.join(map(repr, missing))}")
    return scores, problems


def is_score(value: Any) -> bool:
    """Whether a JSON value is a finite number from 0 to 1."""
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1
