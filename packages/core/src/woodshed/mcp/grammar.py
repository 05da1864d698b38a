"""Scenarios without any model: the server's own prompts and tool schemas are a grammar, its own values fill the slots.

1. Every MCP prompt is a question template. It asks for the tool that it is named after (`get_price_2` → `get_price`) or
   that its description names; the server itself writes the sentence (`prompts/get`).
2. A tool that no prompt asks for is asked for in a plain sentence: its description and its arguments.
3. A slot is filled with what the server completes it with, else with the values its tool's schema names (`enum`,
   `const`, `examples`, `default`, booleans, small ranges), else with the entries of a resource of the slot's name
   (`item` → `items`). A slot nobody knows a value for is left out where it is optional; else its template is rejected.
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
"""`(prompt, arguments) -> text`: what the server makes of a prompt of its own."""


Writer = Callable[[], Awaitable[Scenario]]
"""Writes one scenario, or raises `PromptRefused`."""


class PromptRefused(Exception):
    """The server would not write the sentence of one of its prompts."""


_MOST_VALUES = 100
_MOST_FILLINGS = 2000
_RANGE = 5
"""A number with a minimum and a maximum is tried at this many places between them."""


def plan(catalog: Catalog, ask: Ask, *, seed: int) -> tuple[list[Writer], list[Rejected]]:
    """Return everything the grammar can say, drawn in turn from every template, and the templates nobody can fill."""
    made: list[list[Writer]] = []
    rejected: list[Rejected] = []
    asked_for: set[str] = set()
    for prompt in catalog.prompts:
        tool = asks_for(prompt, catalog.tools)
        filled, missing = _fillings(prompt, tool, catalog)
        if missing:
            rejected.append(Rejected(task=f"prompt {prompt.name}", reason=missing, source=prompt.name))
            continue
        asked_for |= {tool.name} if tool else set()
        made.append([_of_prompt(prompt, tool, values, ask) for values in filled])
    for tool in catalog.tools:
        if tool.name in asked_for:
            continue
        filled, missing = _tool_fillings(tool, catalog)
        if missing:
            rejected.append(Rejected(task=f"tool {tool.name}", reason=missing, source=tool.name))
        else:
            made.append([_of_tool(tool, values) for values in filled])
    return _in_turn(made, seed), rejected


def asks_for(prompt: McpPrompt, tools: Sequence[Tool]) -> Tool | None:
    """Return the tool a prompt asks for: the longest tool name that its own name holds, or its description names."""
    named = [t for t in tools if t.name in prompt.name or re.search(rf"\b{re.escape(t.name)}\b", prompt.description)]
    return max(named, key=lambda t: len(t.name), default=None)


def _fillings(prompt: McpPrompt, tool: Tool | None, catalog: Catalog) -> tuple[list[dict[str, Any]], str]:
    """Return every way to fill a prompt's slots; or none, and why."""
    known = {slot: _values(slot, prompt.values.get(slot, ()), tool, catalog) for slot in prompt.slots}
    unknown = [slot for slot, values in known.items() if not values and slot not in prompt.optional]
    if unknown:
        return [], f"nobody knows a value for {', '.join(map(repr, unknown))}: no completion, enum or resource of it"
    if tool is not None and (needed := set(tool.parameters.get("required", ())) - set(known)):
        return [], f"the tool {tool.name!r} needs {sorted(needed)}, for which the prompt has no slot"
    return _products({slot: values for slot, values in known.items() if values}), ""


def _tool_fillings(tool: Tool, catalog: Catalog) -> tuple[list[dict[str, Any]], str]:
    required = tool.parameters.get("required", ())
    known = {name: _values(name, (), tool, catalog) for name in tool.parameters["properties"]}
    if unknown := [name for name in required if not known.get(name)]:
        return [], f"nobody knows a value for {', '.join(map(repr, unknown))}: no enum, example or resource of it"
    return _products({name: known[name] for name in known if name in required}), ""


def _products(known: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of values; of very many, some that are drawn at random, always the same."""
    total = math.prod(len(values) for values in known.values())
    places = range(total) if total <= _MOST_FILLINGS else random.Random(total).sample(range(total), _MOST_FILLINGS)
    return [_combination(known, place) for place in places]


def _combination(known: Mapping[str, Sequence[Any]], place: int) -> dict[str, Any]:
    chosen = {}
    for name, values in reversed(list(known.items())):
        place, digit = divmod(place, len(values))
        chosen[name] = values[digit]
    return {name: chosen[name] for name in known}


def _values(slot: str, completed: Sequence[str], tool: Tool | None, catalog: Catalog) -> tuple[Any, ...]:
    """Return what a slot may be filled with: the first source that has anything."""
    schema = tool.parameters["properties"].get(slot) if tool else None
    sources: Iterator[Sequence[Any]] = iter(
        (completed, _of_schema(schema) if isinstance(schema, Mapping) else (), _of_resources(slot, catalog))
    )
    return next((tuple(found[:_MOST_VALUES]) for found in sources if found), ())


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
    """Return the entries of the resource that is named after the slot: a JSON list, or lines of plain text."""
    for resource in catalog.resources:
        if resource.name.lower() in (slot.lower(), f"{slot.lower()}s", f"{slot.lower()}es"):
            return _entries(resource.text)
    return []


def _entries(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = [line.strip() for line in text.splitlines()]
    return [str(entry) for entry in found if isinstance(entry, (str, int)) and str(entry)] if found else []


def _of_prompt(prompt: McpPrompt, tool: Tool | None, values: dict[str, Any], ask: Ask) -> Writer:
    async def write() -> Scenario:
        text = await ask(prompt.name, {slot: str(value) for slot, value in values.items()})
        if not text.strip():
            raise PromptRefused(f"prompt {prompt.name} says nothing")
        calls = (PlannedCall(tool=tool.name, arguments=_arguments(tool, values)),) if tool else ()
        return scenario(text, calls=calls, difficulty=_difficulty(values), source=f"prompt {prompt.name}")

    return write


def _arguments(tool: Tool, values: dict[str, Any]) -> dict[str, Any]:
    return {slot: value for slot, value in values.items() if slot in tool.parameters["properties"]}


def _of_tool(tool: Tool, values: dict[str, Any]) -> Writer:
    async def write() -> Scenario:
        wish = re.split(r"(?<=[.!?])\s|\n", tool.description or tool.name.replace("_", " "), maxsplit=1)[0].rstrip(".")
        with_what = ", ".join(f"{name.replace('_', ' ')} {_said(value)}" for name, value in values.items())
        task = f"{wish}: {with_what}." if with_what else f"{wish}."
        call = PlannedCall(tool=tool.name, arguments=values)
        return scenario(task, calls=(call,), difficulty=_difficulty(values), source=f"tool {tool.name}")

    return write


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _difficulty(values: Mapping[str, Any]) -> Any:
    """Grade by what has to be understood: one value is easy, several are medium. This grammar makes nothing hard."""
    return "easy" if len(values) < 2 else "medium"


def _in_turn(made: Sequence[list[Writer]], seed: int) -> list[Writer]:
    """Return all fillings, in turn from every template, in an order that follows from the seed."""
    drawn = random.Random(seed)
    turns = itertools.zip_longest(*(drawn.sample(fillings, len(fillings)) for fillings in made))
    return [one for turn in turns for one in turn if one is not None]
