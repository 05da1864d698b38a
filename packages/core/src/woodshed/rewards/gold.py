"""A file of attempts that people have scored → groups whose order is known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, cast, get_args

from woodshed.errors import ConfigError
from woodshed.rewards.known_groups import KnownGroup, attempt_of
from woodshed.types import Message, Role, ToolRequest, Trajectory

LEAST_SCORED = 20
LEAST_GROUPS = 5
_FORM = (
    '{"scenario": "id", "task": "…", "text": "…", "score": 0 to 1 or null}, or "messages" in OpenAI\'s form, which end '
    "with the attempt's answer, in place of task and text"
)
_KEYS = {"scenario", "task", "text", "messages", "score"}


def read_gold(path: Path) -> tuple[KnownGroup, ...]:
    """Return one group per scenario, with the scores people gave. An attempt whose score is null has no worth.

    Each line is a JSON object with `scenario`, `score`, and either `task` and `text` or `messages`.

    Raises:
        ConfigError: the file is missing, a line is not usable, or there are too few scored attempts; the message names
            line and field.
    """
    if not path.is_file():
        raise ConfigError(f"{str(path)!r} is not a file; expected one JSON object a line: {_FORM}")
    groups: dict[str, list[tuple[int, Trajectory, float | None]]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{str(path)!r} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            scenario, trajectory, score = _attempt(line, number, path)
            groups.setdefault(scenario, []).append((number, trajectory, score))
    _check_groups(groups, path)
    return tuple(
        KnownGroup(
            name=scenario,
            trajectories=tuple(t for _, t, _ in members),
            worth={t.rollout_id: score for _, t, score in members if score is not None},
        )
        for scenario, members in groups.items()
    )


def _attempt(line: str, number: int, path: Path) -> tuple[str, Trajectory, float | None]:
    def refused(field: str, found: Any, expected: str) -> ConfigError:
        shown = repr(found)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return ConfigError(f"line {number} of {str(path)!r}: {field} is {shown}; expected {expected}")

    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"line {number} of {str(path)!r} is not JSON ({error}); expected {_FORM}") from error
    if not isinstance(entry, dict):
        raise refused("the line", entry, _FORM)
    if unknown := sorted(set(entry) - _KEYS):
        raise refused(f"the key {unknown[0]!r}", entry[unknown[0]], f"no key but {sorted(_KEYS)}")
    scenario, score = entry.get("scenario"), entry.get("score", "missing")
    if not isinstance(scenario, str) or not scenario.strip():
        raise refused("'scenario'", scenario, "the scenario's id, a text")
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    if score is not None and not (is_number and math.isfinite(score) and 0 <= score <= 1):
        raise refused("'score'", score, "a number from 0 to 1, or null for an attempt that nobody has scored")
    if "messages" in entry:
        if "text" in entry or "task" in entry:
            raise refused("'text'", entry.get("text", entry.get("task")), "either messages, or task and text")
        messages = _messages(entry["messages"], refused)
    else:
        for key in ("task", "text"):
            if not isinstance(entry.get(key), str) or not entry[key].strip():
                raise refused(f"{key!r}", entry.get(key), f"a text, or 'messages' in its place: {_FORM}")
        messages = (
            Message(role="user", content=entry["task"]),
            Message(role="assistant", content=entry["text"]),
        )
    trajectory = attempt_of(f"line {number}", scenario, messages[:-1], messages[-1])
    return scenario, trajectory, None if score is None else float(score)


def _messages(value: Any, refused: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or len(value) < 2:
        raise refused("'messages'", value, "a list of at least two: the task, then the attempt")
    messages = []
    for index, entry in enumerate(value):
        where = f"'messages[{index}]'"
        role = entry.get("role") if isinstance(entry, Mapping) else None
        role = "system" if role == "developer" else role
        if role not in get_args(Role):
            raise refused(where, entry, f"an object with a role of {get_args(Role)}")
        content = entry.get("content")
        if isinstance(content, list):
            content = "\n".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
        if content is not None and not isinstance(content, str):
            raise refused(f"{where[:-1]}.content'", content, "a text, a list of text parts, or null")
        requests = _requests(entry.get("tool_calls") or [], f"{where[:-1]}.tool_calls'", refused)
        messages.append(
            Message(
                role=cast(Role, role),
                content=content,
                tool_requests=requests,
                tool_call_id=_text(entry.get("tool_call_id")),
            )
        )
    if messages[-1].role != "assistant":
        raise refused(f"'messages[{len(value) - 1}].role'", messages[-1].role, "'assistant': the attempt's answer")
    return tuple(messages)


def _requests(calls: Any, where: str, refused: Any) -> tuple[ToolRequest, ...]:
    requests = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise refused(where, calls, 'a list of {"id": …, "function": {"name": …, "arguments": "…"}}')
        arguments = function.get("arguments", "{}")
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
        requests.append(ToolRequest(id=_text(call.get("id")) or "", name=function["name"], arguments=arguments))
    return tuple(requests)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _task(trajectory: Trajectory) -> tuple[str | None, ...]:
    """Return what stands before the first answer."""
    return tuple(m.content for m in takewhile(lambda m: m.role != "assistant", trajectory.calls[0].tokens.messages))


def _check_groups(groups: Mapping[str, list[tuple[int, Trajectory, float | None]]], path: Path) -> None:
    for scenario, members in groups.items():
        tasks = {_task(t): number for number, t, _ in reversed(members)}
        if len(tasks) > 1:
            first, other = sorted(tasks.values())[:2]
            raise ConfigError(
                f"lines {first} and {other} of {str(path)!r} have one 'scenario', {scenario!r}, and different tasks; "
                "expected attempts at the same task, or another id"
            )
        if len(members) == 1:
            raise ConfigError(
                f"line {members[0][0]} of {str(path)!r} is the only attempt at 'scenario' {scenario!r}; expected at "
                "least two: a judge compares them. Is the id misspelt?"
            )
    scored = sum(score is not None for members in groups.values() for _, _, score in members)
    ordered = sum(len({s for _, _, s in members if s is not None}) > 1 for members in groups.values())
    if scored < LEAST_SCORED or ordered < LEAST_GROUPS:
        raise ConfigError(
            f"{str(path)!r} has {scored} scored attempts, and {ordered} scenarios with different scores; expected at "
            f"least {LEAST_SCORED} and {LEAST_GROUPS}. Some 50 attempts give an interval that says something"
        )
