"""Scenarios for practice, made of how traces began, and the file they are stored in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from woodshed.errors import ConfigError
from woodshed.traces.conversation import Json, Trace, text_of
from woodshed.types import Record


class Scenario(Record):
    """What an agent was asked, and what it had."""

    id: str
    """A hash of the messages and tools, so that it is the same in every run."""
    task: str
    """The text of the user's first message."""
    messages: tuple[Json, ...]
    """Everything before the first answer, in OpenAI's shape: the system's messages and the user's."""
    tools: tuple[Json, ...] = ()
    """What the model was offered, in OpenAI's shape."""
    source: str = ""
    """Where it comes from, such as `talks.jsonl, line 3`."""

    @property
    def system(self) -> str | None:
        """The instructions, or None."""
        texts = [text_of(message) for message in self.messages if message["role"] in ("system", "developer")]
        return "\n".join(texts) if texts else None


def scenario_of(trace: Trace, source: str) -> Scenario | None:
    """Return how a trace began; None if no user said anything before the first answer."""
    beginning: list[Json] = []
    first = trace.conversations[0] if trace.conversations else None
    for message in first.messages if first is not None else ():
        if message["role"] in ("assistant", "tool"):
            break
        beginning.append(message)
    task = next((text_of(message) for message in beginning if message["role"] == "user"), None)
    if first is None or task is None:
        return None
    identity = json.dumps([beginning, first.tools], sort_keys=True, ensure_ascii=False)
    return Scenario(
        id=hashlib.sha256(identity.encode()).hexdigest()[:12],
        task=task,
        messages=tuple(beginning),
        tools=first.tools,
        source=source,
    )


def distinct(scenarios: Iterable[Scenario]) -> list[Scenario]:
    """Return every scenario once; attempts at the same one began alike."""
    found: dict[str, Scenario] = {}
    for scenario in scenarios:
        found.setdefault(scenario.id, scenario)
    return list(found.values())


def scenarios(path: Path | str) -> list[Scenario]:
    """Return the scenarios of a file that `woodshed from-traces` wrote, to be trained on.

    Raises:
        ConfigError: the file is missing or empty, a line cannot be read, or two have the same id.

    Example:
        `woodshed.Training(rollout=answer, scenarios=woodshed.traces.scenarios("traces/scenarios.jsonl"), …)`
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{str(path)!r} is not there; `woodshed from-traces FILE` writes it")
    found: dict[str, Scenario] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        scenario = _read(line, f"{path}, line {number}")
        if scenario.id in found:
            raise ConfigError(f"{path}, line {number}: the id {scenario.id!r} appears twice; ids must be unique")
        found[scenario.id] = scenario
    if not found:
        raise ConfigError(
            f"{str(path)!r} is empty; expected one scenario per line, as `woodshed from-traces` writes them"
        )
    return list(found.values())


def _read(line: str, where: str) -> Scenario:
    try:
        return Scenario.model_validate_json(line)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the line'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{where}: {problems}") from None


def line_of(scenario: Scenario) -> dict[str, Any]:
    """Return a scenario as plain JSON, without what it lacks."""
    return scenario.model_dump(mode="json", exclude_defaults=True)
