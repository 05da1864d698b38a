"""Scenarios: their records, the editable file they are stored in, and the held-out split."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from woodshed.errors import ConfigError
from woodshed.types import Record

Difficulty = Literal["easy", "medium", "hard"]
Split = Literal["train", "held_out"]
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard")


class PlannedCall(Record):
    """A tool call that a task is known to need. Only the dry run makes it; the agent never sees it."""

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Scenario(Record):
    """One task for the agent."""

    id: str
    task: str
    """The user's message."""
    calls: tuple[PlannedCall, ...] = ()
    """Calls that the task needs, as far as their arguments are known; used by the dry run."""
    difficulty: Difficulty = "easy"
    split: Split = "train"
    source: str = "by hand"
    """Where it comes from: a prompt or tool of the server, the generator model, or `by hand`."""


class Rejected(Record):
    """A generated task that was rejected, and the reason."""

    task: str
    reason: str
    source: str = ""


def scenario(task: str, **fields: Any) -> Scenario:
    """Return a scenario whose id is a hash of its task, so that it is the same in every run."""
    return Scenario(id=hashlib.sha256(normal(task).encode()).hexdigest()[:12], task=task, **fields)


def normal(task: str) -> str:
    """Return a task without case, punctuation and extra spaces, to detect duplicates."""
    return " ".join(re.findall(r"\w+", task.casefold()))


HeldOut = float | Callable[[Scenario], bool]
"""Share of scenarios to hold out, or a function that decides for each scenario."""


def split(scenarios: Sequence[Scenario], *, held_out: HeldOut, seed: int) -> list[Scenario]:
    """Return the scenarios with some held out: by a function, or a share of each combination of difficulty and source.

    Raises:
        ConfigError: one of the two splits would be empty.
    """
    check_held_out(held_out)
    is_held_out = held_out if callable(held_out) else _drawn(scenarios, held_out, seed)
    assigned = [s.model_copy(update={"split": "held_out" if is_held_out(s) else "train"}) for s in scenarios]
    if not of_split(assigned, "train") or not of_split(assigned, "held_out"):
        raise ConfigError(
            f"of {len(assigned)} scenarios {len(of_split(assigned, 'held_out'))} are held out; expected some for "
            "training and some held out"
        )
    return assigned


def check_held_out(held_out: HeldOut) -> None:
    """Raise `ConfigError` for a share that is not between 0 and 1; called before any work starts."""
    if not callable(held_out) and not 0 < held_out < 1:
        raise ConfigError(f"the held-out share is {held_out!r}; expected a number between 0 and 1, such as 0.25")


def _drawn(scenarios: Sequence[Scenario], share: float, seed: int) -> Callable[[Scenario], bool]:
    kinds: dict[tuple[str, str], list[Scenario]] = {}
    for scenario in scenarios:
        kinds.setdefault((scenario.difficulty, scenario.source), []).append(scenario)
    rng = random.Random(seed)
    order = [s for kind in sorted(kinds) for s in rng.sample(kinds[kind], len(kinds[kind]))]
    held = {s.id for k, s in enumerate(order) if int((k + 1) * share) > int(k * share)}
    held = held or {s.id for s in order[-1:]}
    return lambda s: s.id in held


def of_split(scenarios: Iterable[Scenario], name: Split) -> list[Scenario]:
    """Return the scenarios of one split."""
    return [s for s in scenarios if s.split == name]


def save(path: Path, rows: Iterable[Record]) -> None:
    """Write one JSON object per line, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    temporary.replace(path)


def load_rejected(path: Path) -> list[Rejected]:
    """Return the rejected tasks of a file; an empty list if it does not exist."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Rejected.model_validate_json(line) for line in lines if line.strip()]


def load(path: Path) -> list[Scenario]:
    """Return the scenarios of a file. Only `task` is required in a line, so lines can be written by hand.

    Raises:
        ConfigError: a line cannot be read, or two lines have the same id; the message names file and line.
    """
    scenarios: dict[str, Scenario] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        parsed = _read(line, f"{path}, line {number}")
        if parsed.id in scenarios:
            raise ConfigError(f"{path}, line {number}: the id {parsed.id!r} appears twice; ids must be unique")
        scenarios[parsed.id] = parsed
    if not of_split(scenarios.values(), "train") or not of_split(scenarios.values(), "held_out"):
        raise ConfigError(
            f"{str(path)!r} holds {len(of_split(scenarios.values(), 'train'))} scenarios for training and "
            f"{len(of_split(scenarios.values(), 'held_out'))} held out; expected some of both "
            '("split": "train" or "held_out"). Delete the file to generate it again'
        )
    return list(scenarios.values())


def _read(line: str, where: str) -> Scenario:
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict) or not str(fields.get("task") or "").strip():
            raise ValueError('expected an object with a "task"')
        return Scenario(**fields) if "id" in fields else scenario(**fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{where}: {problems}") from None
    except ValueError as error:
        raise ConfigError(f"{where} cannot be read: {error}") from None
