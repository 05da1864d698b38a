"""Generate scenarios without a model: the server's prompts and tool schemas are templates, filled with its own values.

1. Every MCP prompt is a question template. It uses the tool that it is named after (`get_price_2` → `get_price`) or
   that its description names; the server itself writes the sentence (`prompts/get`).
2. A tool that no prompt uses gets a plain sentence: its description and its arguments.
3. A slot is filled with the server's completions, else with the values in its tool's schema (`enum`, `const`,
   `examples`, `default`, booleans, small ranges), else with the entries of a resource with the slot's name (`item` →
   `items`). A slot without any value is left out if it is optional; else its template is rejected.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from woodshed.mcp.catalog import Catalog, McpPrompt
from woodshed.mcp.scenario import PlannedCall, Rejected, Scenario, scenario
from woodshed.mcp.tools import Tool

Ask = Callable[[str, dict[str, str]], Awaitable[str]]
"""`(prompt, arguments) -> text`: the server's text for one of its prompts."""


Writer = Callable[[], Awaitable[Scenario]]
"""Writes one scenario, or raises `PromptRefused`."""


class PromptRefused(Exception):
    """The server refused to fill one of its prompts."""


_MOST_VALUES = 100
_MOST_FILLINGS = 2000
_RANGE = 5
"""Number of values tried between a minimum and a maximum."""


def plan(catalog: Catalog, ask: Ask, *, seed: int) -> tuple[list[Writer], list[Rejected]]:
    """Return writers for all scenarios, taken in turn from every template, and the templates without values."""
    templates: list[list[Writer]] = []
    rejected: list[Rejected] = []
    used_tools: set[str] = set()
    for prompt in catalog.prompts:
        tool = tool_of_prompt(prompt, catalog.tools)
        filled, missing = _fillings(prompt, tool, catalog)
        if missing:
            rejected.append(Rejected(task=f"prompt {prompt.name}", reason=missing, source=prompt.name))
            continue
        used_tools |= {tool.name} if tool else set()
        templates.append([_of_prompt(prompt, tool, values, ask) for values in filled])
    for tool in catalog.tools:
        if tool.name in used_tools:
            continue
        filled, missing = _tool_fillings(tool, catalog)
        if missing:
            rejected.append(Rejected(task=f"tool {tool.name}", reason=missing, source=tool.name))
        else:
            templates.append([_of_tool(tool, values) for values in filled])
    return _in_turn(templates, seed), rejected


def tool_of_prompt(prompt: McpPrompt, tools: Sequence[Tool]) -> Tool | None:
    """Return the tool a prompt uses: the one with the longest name that occurs in its name or description."""
    mentioned = [
        t for t in tools if t.name in prompt.name or re.search(rf"\b{re.escape(t.name)}\b", prompt.description)
    ]
    return max(mentioned, key=lambda t: len(t.name), default=None)


def _fillings(prompt: McpPrompt, tool: Tool | None, catalog: Catalog) -> tuple[list[dict[str, Any]], str]:
    """Return every way to fill a prompt's slots; or none, and the reason."""
    known = {slot: _values(slot, prompt.values.get(slot, ()), tool, catalog) for slot in prompt.slots}
    unknown = [slot for slot, values in known.items() if not values and slot not in prompt.optional]
    if unknown:
        return [], f"no value known for {', '.join(map(repr, unknown))}: no completion, enum or resource"
    if tool is not None and (needed := set(tool.parameters.get("required", ())) - set(known)):
        return [], f"the tool {tool.name!r} needs {sorted(needed)}, for which the prompt has no slot"
    return _products({slot: values for slot, values in known.items() if values}), ""


def _tool_fillings(tool: Tool, catalog: Catalog) -> tuple[list[dict[str, Any]], str]:
    required = tool.parameters.get("required", ())
    known = {name: _values(name, (), tool, catalog) for name in tool.parameters["properties"]}
    if unknown := [name for name in required if not known.get(name)]:
        return [], f"no value known for {', '.join(map(repr, unknown))}: no enum, example or resource"
    return _products({name: known[name] for name in known if name in required}), ""


def _products(known: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of values, or a reproducible random sample if there are very many."""
    total = math.prod(len(values) for values in known.values())
    numbers = range(total) if total <= _MOST_FILLINGS else random.Random(total).sample(range(total), _MOST_FILLINGS)
    return [_combination(known, number) for number in numbers]


def _combination(known: Mapping[str, Sequence[Any]], number: int) -> dict[str, Any]:
    chosen = {}
    for name, values in reversed(list(known.items())):
        number, digit = divmod(number, len(values))
        chosen[name] = values[digit]
    return {name: chosen[name] for name in known}


def _values(slot: str, completed: Sequence[str], tool: Tool | None, catalog: Catalog) -> tuple[Any, ...]:
    """Return the values of a slot, from the first source that has any."""
    schema = tool.parameters["properties"].get(slot) if tool else None
    sources: Iterator[Sequence[Any]] = iter(
        (completed, _of_schema(schema) if isinstance(schema, Mapping) else (), _of_resources(slot, catalog))
    )
    return next((tuple(values[:_MOST_VALUES]) for values in sources if values), ())


def _of_schema(schema: Mapping[str, Any]) -> Sequence[Any]:
    for branch in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if branch.get("enum"):
            return [v for v in branch["enum"] if v is not None]
        if "const" in branch:
            return [branch["const"]]
        if branch.get("examples"):
            return list(branch["examples"])
        if branch.get("type") == "boolean":
            return [True, False]
        if branch.get("type") in ("integer", "number") and "minimum" in branch and "maximum" in branch:
            return _between(branch["minimum"], branch["maximum"])
    return [schema["default"]] if schema.get("default") is not None else ()


def _between(low: float, high: float) -> list[int]:
    first, last = int(low), int(high)
    return sorted({first + (last - first) * step // (_RANGE - 1) for step in range(_RANGE)})


def _of_resources(slot: str, catalog: Catalog) -> list[str]:
    """Return the entries of the resource named after the slot: a JSON list, or lines of plain text."""
    for resource in catalog.resources:
        if resource.name.lower() in (slot.lower(), f"{slot.lower()}s", f"{slot.lower()}es"):
            return _entries(resource.text)
    return []


def _entries(text: str) -> list[str]:
    try:
        entries = json.loads(text)
    except ValueError:
        entries = [line.strip() for line in text.splitlines()]
    return [str(entry) for entry in entries if isinstance(entry, (str, int)) and str(entry)] if entries else []


def _of_prompt(prompt: McpPrompt, tool: Tool | None, values: dict[str, Any], ask: Ask) -> Writer:
    async def write() -> Scenario:
        text = await ask(prompt.name, {slot: str(value) for slot, value in values.items()})
        if not text.strip():
            raise PromptRefused(f"prompt {prompt.name} is empty")
        calls = (PlannedCall(tool=tool.name, arguments=_arguments(tool, values)),) if tool else ()
        return scenario(text, calls=calls, difficulty=_difficulty(values), source=f"prompt {prompt.name}")

    return write


def _arguments(tool: Tool, values: dict[str, Any]) -> dict[str, Any]:
    return {slot: value for slot, value in values.items() if slot in tool.parameters["properties"]}


def _of_tool(tool: Tool, values: dict[str, Any]) -> Writer:
    async def write() -> Scenario:
        request = re.split(r"(?<=[.!?])\s|\n", tool.description or tool.name.replace("_", " "), maxsplit=1)[0].rstrip(
            "."
        )
        arguments = ", ".join(f"{name.replace('_', ' ')} {_as_text(value)}" for name, value in values.items())
        task = f"{request}: {arguments}." if arguments else f"{request}."
        call = PlannedCall(tool=tool.name, arguments=values)
        return scenario(task, calls=(call,), difficulty=_difficulty(values), source=f"tool {tool.name}")

    return write


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _difficulty(values: Mapping[str, Any]) -> Any:
    """Return the difficulty: up to one value is easy, several are medium. No template makes a hard task."""
    return "easy" if len(values) < 2 else "medium"


def _in_turn(templates: Sequence[list[Writer]], seed: int) -> list[Writer]:
    """Return the writers of all templates in turn, each template shuffled with the seed."""
    rng = random.Random(seed)
    turns = itertools.zip_longest(*(rng.sample(writers, len(writers)) for writers in templates))
    return [writer for turn in turns for writer in turn if writer is not None]
