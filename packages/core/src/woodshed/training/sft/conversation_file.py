"""SFT examples from a JSONL file: one conversation per line, in the format of OpenAI's chat completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from woodshed.errors import ConfigError
from woodshed.training.sft.dataset import SftExample

_ROLES = ("system", "developer", "user", "assistant", "tool")
_EXAMPLE_LINE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}], "tools": […]}'


def examples_of_file(path: Path) -> list[SftExample]:
    """Return the conversations of a JSONL file. Empty lines and keys other than `messages` and `tools` are ignored.

    Raises:
        ConfigError: the file is missing or empty, or a line is not a usable conversation; the message names the line.
    """
    if not path.is_file():
        raise ConfigError(f"{str(path)!r} is not there; expected a run's folder or a .jsonl file of conversations")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{str(path)!r} is not UTF-8 text: {error}") from error
    examples = [_example(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not examples:
        raise ConfigError(f"{str(path)!r} is empty; expected one conversation per line, such as {_EXAMPLE_LINE}")
    return examples


def _example(path: Path, number: int, line: str) -> SftExample:
    where = f"{path.name}, line {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(
            f"{where} is not JSON ({error}); expected one object per line, such as {_EXAMPLE_LINE}"
        ) from error
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        raise ConfigError(f"{where} has no list of messages; expected {_EXAMPLE_LINE}")
    tools = row.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ConfigError(f"{where}: 'tools' is {tools!r}; expected a list of OpenAI's function tools")
    messages = tuple(_message(where, index, message) for index, message in enumerate(row["messages"]))
    if not any(message["role"] == "assistant" and message.get("weight") != 0 for message in messages):
        raise ConfigError(
            f"{where} has no assistant message (of a weight other than 0), so there is nothing to learn in it"
        )
    return SftExample(place=f"line {number}", scenario_id=f"line-{number}", messages=messages, tools=tuple(tools))


def _message(where: str, index: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ConfigError(f"{where}: messages[{index}] is {message!r}; expected an object with role and content")
    if message.get("role") not in _ROLES:
        raise ConfigError(f"{where}: messages[{index}].role is {message.get('role')!r}; expected one of {_ROLES}")
    return message
