"""Generate scenarios with any OpenAI-compatible chat model; it is told which of its tasks were rejected and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, ClassVar

from woodshed.chat.client import ChatClient
from woodshed.chat.model import ChatModel, Question
from woodshed.errors import ConfigError, WoodshedError
from woodshed.mcp.catalog import Catalog
from woodshed.mcp.dry_run import DryRun
from woodshed.mcp.scenario import DIFFICULTIES, Difficulty, PlannedCall, Rejected, Scenario, scenario

_PER_REQUEST = 10
_MAX_FRUITLESS = 3
"""Consecutive requests without a usable scenario before generation stops."""
_RESOURCE_CHARS = 2000
_REMEMBERED = 40
"""Number of latest tasks and rejections repeated in each request."""


def _default_mix() -> dict[Difficulty, float]:
    return {"easy": 0.4, "medium": 0.4, "hard": 0.2}


@dataclass(frozen=True, slots=True)
class Generator(ChatModel):
    """The chat model that writes scenarios.

    Example:
        `Generator("gpt-5-mini")`, or `Generator("qwen3:32b", base_url="http://localhost:11434/v1")`
    """

    role: ClassVar[str] = "generator"
    error: ClassVar[type[WoodshedError]] = ConfigError
    permanent_error: ClassVar[type[WoodshedError]] = ConfigError

    temperature: float = 1.0
    timeout_s: float = 300.0
    mix: Mapping[Difficulty, float] = field(default_factory=_default_mix)
    """Share of each difficulty."""

    def __post_init__(self) -> None:
        """Refuse an empty mix, and a model of the engine, which does not run yet."""
        ChatModel.__post_init__(self)
        if self.is_engine:
            raise ConfigError(
                f"generator {self.model!r} names a model of the engine, which does not run yet when scenarios are "
                "written; give its address: Generator('policy', base_url=...)"
            )
        if unknown := set(self.mix) - set(DIFFICULTIES):
            raise ConfigError(f"Generator.mix names {sorted(unknown)}; expected {', '.join(DIFFICULTIES)}")
        if not sum(self.mix.values()) > 0 or min(self.mix.values()) < 0:
            raise ConfigError(f"Generator.mix is {dict(self.mix)}; expected shares of 0 or more, not all 0")

    def wanted(self, count: int) -> dict[Difficulty, int]:
        """Return how many scenarios of each difficulty make `count`."""
        total, counts, left = sum(self.mix.values()), {}, count
        for index, name in enumerate(DIFFICULTIES):
            last = index == len(DIFFICULTIES) - 1
            counts[name] = left if last else min(left, round(count * self.mix.get(name, 0.0) / total))
            left -= counts[name]
        return counts


async def generate(
    model: Generator, catalog: Catalog, dry_run: DryRun, *, count: int, on_message: Callable[[str], None]
) -> tuple[list[Scenario], list[Rejected]]:
    """Return up to `count` scenarios that passed the dry run, and the rejected ones.

    Raises:
        ConfigError: the model cannot be reached, or none of its answers can be parsed.
    """
    chat, kept, rejected = ChatClient(model), list[Scenario](), list[Rejected]()
    system = resources.files("woodshed.mcp").joinpath("prompts/generator.md").read_text()
    fruitless = 0
    while len(kept) < count and fruitless < _MAX_FRUITLESS:
        wanted = _missing(model.wanted(count), kept, min(_PER_REQUEST, count - len(kept)))
        user = _request(catalog, wanted, kept, rejected)
        try:
            parsed, unparsed = await _ask(chat, Question(system=system, user=user, schema=SCHEMA), model.model)
        except ConfigError as error:
            if not kept:
                raise
            on_message(f"{error}; continuing with the {len(kept)} scenarios generated so far")
            break
        good, bad = await dry_run.filter(parsed)
        kept += good[: count - len(kept)]
        rejected += [*unparsed, *bad]
        fruitless = 0 if good else fruitless + 1
        on_message(f"{len(kept)} of {count} scenarios, {len(rejected)} rejected")
    if not kept and all(r.source == _UNREADABLE for r in rejected):
        raise ConfigError(
            f"generator {model.model!r} wrote nothing that can be read in {_MAX_FRUITLESS} requests; the last time: "
            f"{rejected[-1].reason}. Name a larger model, or leave the generator out to use the grammar"
        )
    return kept, rejected


_UNREADABLE = "unreadable answer"
_CALL = {
    "type": "object",
    "properties": {"tool": {"type": "string"}, "arguments": {"type": "string"}},
    "required": ["tool", "arguments"],
    "additionalProperties": False,
}
_TASK = {
    "type": "object",
    "properties": {
        "task": {"type": "string"},
        "difficulty": {"type": "string", "enum": list(DIFFICULTIES)},
        "calls": {"type": "array", "items": _CALL},
    },
    "required": ["task", "difficulty", "calls"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"scenarios": {"type": "array", "items": _TASK}},
    "required": ["scenarios"],
    "additionalProperties": False,
}


def _missing(wanted: dict[Difficulty, int], kept: Sequence[Scenario], most: int) -> dict[Difficulty, int]:
    """Return how many of each difficulty to request next, filling the largest gaps first."""
    left = {d: max(n - sum(s.difficulty == d for s in kept), 0) for d, n in wanted.items()}
    request = dict.fromkeys(DIFFICULTIES, 0)
    for _ in range(most):
        widest = max(left, key=lambda d: left[d] - request[d])
        request[widest] += 1
    return {d: n for d, n in request.items() if n}


def _request(catalog: Catalog, wanted: dict[Difficulty, int], kept: Sequence[Scenario], bad: Sequence[Rejected]) -> str:
    tools = [t.model_dump(mode="json", include={"name", "description", "parameters"}) for t in catalog.tools]
    parts = [f"The server calls itself {catalog.name!r} and says: {catalog.instructions}", "Tools:\n" + _lines(tools)]
    if catalog.prompts:
        parts.append("Questions its users ask:\n" + _lines([p.model_dump(mode="json") for p in catalog.prompts[:30]]))
    if catalog.resources:
        texts = [f"{r.name} ({r.uri}):\n{r.text[:_RESOURCE_CHARS]}" for r in catalog.resources]
        parts.append("Its data:\n" + "\n\n".join(texts))
    if kept:
        parts.append("These tasks exist already; write others:\n" + _lines([s.task for s in kept[-_REMEMBERED:]]))
    if bad:
        shown = [{"task": r.task, "why": r.reason} for r in bad[-_REMEMBERED:]]
        parts.append("These were thrown away; do not repeat their mistake:\n" + _lines(shown))
    amount = ", ".join(f"{n} {d}" for d, n in wanted.items())
    return "\n\n".join(
        [*parts, f"Write {amount} tasks as one JSON object that fits this schema:\n{json.dumps(SCHEMA)}"]
    )


def _lines(rows: Sequence[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


async def _ask(chat: ChatClient, question: Question, name: str) -> tuple[list[Scenario], list[Rejected]]:
    answer = await chat.ask(question)
    try:
        rows = json.loads(answer.text[answer.text.index("{") : answer.text.rindex("}") + 1])["scenarios"]
        return _read(rows, name)
    except (ValueError, KeyError, TypeError):
        problem = "it was cut at a token limit" if answer.is_cut else f"it begins with {answer.text[:120]!r}"
        return [], [Rejected(task="", reason=f"no JSON object with scenarios; {problem}", source=_UNREADABLE)]


def _read(rows: Sequence[Any], source: str) -> tuple[list[Scenario], list[Rejected]]:
    scenarios: list[Scenario] = []
    rejected: list[Rejected] = []
    for row in rows:
        try:
            calls = tuple(PlannedCall(tool=c["tool"], arguments=_object(c["arguments"])) for c in row["calls"])
            if not str(row["task"]).strip():
                raise ValueError("it has no task")
            scenarios.append(
                scenario(str(row["task"]).strip(), calls=calls, difficulty=row["difficulty"], source=source)
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            task = str(row.get("task", row) if isinstance(row, dict) else row)[:200]
            rejected.append(Rejected(task=task, reason=f"cannot be read: {error}"[:300], source=_UNREADABLE))
    return scenarios, rejected


def _object(text: Any) -> dict[str, Any]:
    value = json.loads(text) if isinstance(text, str) else text
    if not isinstance(value, dict):
        raise ValueError(f"arguments are {text!r}; expected the JSON text of an object")
    return value
