"""Tasks to practise on: records, the editable file they are kept in, and what is held out."""

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
    """A tool call that a task is known to need. The agent never sees it; a dry run makes it."""

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Scenario(Record):
    """One task for the agent."""

    id: str
    task: str
    """What the user says."""
    calls: tuple[PlannedCall, ...] = ()
    """Calls that the task needs and whose arguments are known beforehand; for the dry run and the reader."""
    difficulty: Difficulty = "easy"
    split: Split = "train"
    source: str = "by hand"
    """What made it: a prompt or tool of the server, the generator model, or a hand."""


class Rejected(Record):
    """A task that was made and not taken, and why."""

    task: str
    reason: str
    source: str = ""


def scenario(task: str, **fields: Any) -> Scenario:
    """Return a scenario whose id follows from its task, so that the same task is the same scenario in every run."""
    return Scenario(id=hashlib.sha256(normal(task).encode()).hexdigest()[:12], task=task, **fields)


def normal(task: str) -> str:
    """Return a task without what makes no difference: case, punctuation, blanks."""
    return " ".join(re.findall(r"\w+", task.casefold()))


HeldOut = float | Callable[[Scenario], bool]
"""The share that is held out, or a rule that says of a scenario whether it is."""


def split(scenarios: Sequence[Scenario], *, held_out: HeldOut, seed: int) -> list[Scenario]:
    """Return the scenarios with some held out: by a rule, or a share of every kind (difficulty and source).

    Raises:
        ConfigError: one of the halves would be empty.
    """
    check_held_out(held_out)
    is_held_out = held_out if callable(held_out) else _drawn(scenarios, held_out, seed)
    parted = [one.model_copy(update={"split": "held_out" if is_held_out(one) else "train"}) for one in scenarios]
    if not of_split(parted, "train") or not of_split(parted, "held_out"):
        raise ConfigError(
            f"of {len(parted)} scenarios {len(of_split(parted, 'held_out'))} are held out; expected some to practise "
            "on and some held out"
        )
    return parted


def check_held_out(held_out: HeldOut) -> None:
    """Raise `ConfigError` for a share that leaves one half empty; said before any work."""
    if not callable(held_out) and not 0 < held_out < 1:
        raise ConfigError(f"the held-out share is {held_out!r}; expected a number between 0 and 1, such as 0.25")


def _drawn(scenarios: Sequence[Scenario], share: float, seed: int) -> Callable[[Scenario], bool]:
    kinds: dict[tuple[str, str], list[Scenario]] = {}
    for one in scenarios:
        kinds.setdefault((one.difficulty, one.source), []).append(one)
    drawn = random.Random(seed)
    order = [one for kind in sorted(kinds) for one in drawn.sample(kinds[kind], len(kinds[kind]))]
    held = {one.id for place, one in enumerate(order) if int((place + 1) * share) > int(place * share)}
    held = held or {one.id for one in order[-1:]}
    return lambda one: one.id in held


def of_split(scenarios: Iterable[Scenario], name: Split) -> list[Scenario]:
    """Return the scenarios of one half."""
    return [one for one in scenarios if one.split == name]


def save(path: Path, rows: Iterable[Record]) -> None:
    """Write one JSON object a line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    aside.replace(path)


def load_rejected(path: Path) -> list[Rejected]:
    """Return what a file keeps of tasks that were not taken; none where there is no file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Rejected.model_validate_json(line) for line in lines if line.strip()]


def load(path: Path) -> list[Scenario]:
    """Return the scenarios of a file; a line needs only its `task`, so that lines can be written by hand.

    Raises:
        ConfigError: a line cannot be read, or two have the same id; names the file and the line.
    """
    found: dict[str, Scenario] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        one = _read(line, f"{path}, line {number}")
        if one.id in found:
            raise ConfigError(f"{path}, line {number}: the id {one.id!r} was there before; ids must be unique")
        found[one.id] = one
    if not of_split(found.values(), "train") or not of_split(found.values(), "held_out"):
        raise ConfigError(
            f"{str(path)!r} holds {len(of_split(found.values(), 'train'))} scenarios to practise on and "
            f"{len(of_split(found.values(), 'held_out'))} held out; expected some of both "
            '("split": "train" or "held_out"). Delete the file to have it made anew'
        )
    return list(found.values())


def _read(line: str, where: str) -> Scenario:
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict) or not str(fields.get("task") or "").strip():
            raise ValueError('expected an object with a "task"')
        return Scenario(**fields) if "id" in fields else scenario(**fields)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{where}: {said}") from None
    except ValueError as error:
        raise ConfigError(f"{where} cannot be read: {error}") from None
