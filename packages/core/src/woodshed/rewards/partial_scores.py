"""Scores finer than an attempt: one for each agent in it, or for each of its steps, where they are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from woodshed.errors import ConfigError
from woodshed.rewards.transcript import History

Detail = Literal["agents", "steps"]
UNNAMED = "?"
"""What an agent without a name is called towards the judge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What one attempt consists of, as far as it is to be scored part by part."""

    agents: tuple[str, ...] = ()
    steps: int = 0


def check_details(details: Sequence[str]) -> tuple[Detail, ...]:
    """Return what is asked for, each once and in a fixed order.

    Raises:
        ConfigError: a name is not one of `agents` and `steps`.
    """
    known = get_args(Detail)
    if isinstance(details, str) or set(details) - set(known):
        raise ConfigError(f"Ruler.details is {details!r}; expected a tuple of names from {known}")
    return tuple(d for d in known if d in details)


def parts_of(told: Sequence[History], details: Sequence[Detail]) -> Parts:
    """Return the parts of an attempt that are to be scored."""
    agents = tuple(dict.fromkeys(h.agent or UNNAMED for h in told)) if "agents" in details else ()
    steps = sum(len(h.calls) for h in told) if "steps" in details else 0
    return Parts(agents=agents, steps=steps)


def schema_of(details: Sequence[Detail]) -> dict[str, Any]:
    """Return the JSON Schema properties that an entry of the verdict has for them."""
    score = {"type": "number", "minimum": 0, "maximum": 1}
    agent = {
        "type": "object",
        "properties": {"agent": {"type": "string"}, "score": score},
        "required": ["agent", "score"],
        "additionalProperties": False,
    }
    forms: dict[Detail, dict[str, Any]] = {
        "agents": {"type": "array", "items": agent},
        "steps": {"type": "array", "items": score},
    }
    return {d: forms[d] for d in details}


@dataclass(frozen=True, kw_only=True, slots=True)
class PartScores:
    """What the judge says of an attempt's parts."""

    agents: Mapping[str, float]
    steps: tuple[float, ...]


def read_parts(entry: Mapping[str, Any], attempt: str, parts: Parts) -> tuple[PartScores, list[str]]:
    """Return the scores of an attempt's parts, and every rule that they break."""
    agents, wrong = _read_agents(entry.get("agents"), attempt, parts.agents)
    steps = entry.get("steps")
    if parts.steps:
        if not isinstance(steps, list) or len(steps) != parts.steps:
            found = f"{len(steps)} scores" if isinstance(steps, list) else repr(steps)[:80]
            wrong.append(f"'steps' of {attempt!r} is {found}; expected {parts.steps} scores, one a step")
        else:
            wrong += [
                f"step {n} of {attempt!r} is scored {s!r:.40}; expected a number from 0 to 1"
                for n, s in enumerate(steps, 1)
                if not is_score(s)
            ]
    scored = tuple(float(s) for s in steps) if parts.steps and isinstance(steps, list) and not wrong else ()
    return PartScores(agents=agents if not wrong else {}, steps=scored), wrong


def _read_agents(found: Any, attempt: str, names: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    if not names:
        return {}, []
    scores: dict[str, float] = {}
    wrong: list[str] = []
    for entry in found if isinstance(found, list) else ():
        name, score = (entry.get("agent"), entry.get("score")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(name, str) or name not in names or name in scores:
            wrong.append(f"'agents' of {attempt!r} holds {entry!r:.80}; expected each of {list(names)} once")
        elif not is_score(score):
            wrong.append(f"agent {name!r} of {attempt!r} is scored {score!r:.40}; expected a number from 0 to 1")
        else:
            scores[name] = float(entry["score"])
    missing = [n for n in names if n not in scores]
    if missing and not wrong:
        wrong.append(f"'agents' of {attempt!r} has no score for {', '.join(map(repr, missing))}")
    return scores, wrong


def is_score(value: Any) -> bool:
    """Whether a JSON value is a usable score."""
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1
