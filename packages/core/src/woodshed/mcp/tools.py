"""A server's tools as an agent is offered them: which are safe, which are usable, and which were chosen."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for

from woodshed.errors import ConfigError, McpServerError
from woodshed.mcp.sdk import field
from woodshed.types import Record

_FUNCTION_NAME = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_CHANGES = frozenset(
    "append buy cancel commit create deactivate delete deploy destroy drop edit erase exec execute insert install"
    " invite kill merge modify move overwrite pay publish purge rebase refund remove rename replace reset restore"
    " revert revoke rollback send submit terminate truncate uninstall update upload upsert write".split()
)
"""Verbs that change something. A tool without hints is taken for destructive where its name holds one of them."""
_CHANGES_FIRST = _CHANGES | frozenset(
    "add apply approve archive assign ban charge checkout clear close disable enable fill grant invoke launch lock open"
    " order place post push put restart run schedule set start stop transfer unlock".split()
)
"""With these, which may be nouns elsewhere: verbs that a destructive tool's name or description begins with."""


class Tool(Record):
    """One tool as the model is offered it."""

    name: str
    description: str = ""
    parameters: dict[str, Any]
    """JSON Schema of the arguments, without the titles that schema generators add."""
    destructive: str | None = None
    """Why the tool looks as if it changed something; None where it only reads."""


class LeftOut(Record):
    """A tool that the agent is not offered, and why."""

    name: str
    reason: str


def to_tool(tool: Any) -> Tool:
    """Return an MCP tool as the model is offered it.

    Raises:
        ValueError: its schema is not valid JSON Schema, or its name cannot be a function's; says which and why.
    """
    if not _FUNCTION_NAME.match(tool.name):
        raise ValueError("its name cannot be a function's: expected up to 64 letters, digits, '_' and '-'")
    parameters = check_schema(field(tool, "inputSchema"))
    description = (tool.description or "").strip()
    return Tool(
        name=tool.name,
        description=description,
        parameters=parameters,
        destructive=_destructive(tool.name, description, tool.annotations),
    )


def check_schema(schema: Any) -> dict[str, Any]:
    """Return the schema of a tool's arguments without titles.

    Raises:
        ValueError: it is not valid JSON Schema of an object.
    """
    if not isinstance(schema, Mapping):
        raise ValueError(f"its schema is {schema!r}; expected a JSON object")
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "its root"
        raise ValueError(f"its schema is not valid JSON Schema: at {place}: {error.message[:200]}") from None
    if schema.get("type", "object") != "object":
        raise ValueError(f"its schema describes {schema['type']!r}; expected an object of arguments")
    plain: dict[str, Any] = without_titles(schema)
    plain.pop("$schema", None)
    return {**({} if "properties" in plain else {"properties": {}}), **plain, "type": "object"}


def without_titles(schema: Any) -> Any:
    """Return a schema without its `title` keywords; a property that is called `title` stays."""
    if isinstance(schema, list):
        return [without_titles(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    named = ("properties", "$defs", "definitions", "patternProperties")
    return {
        word: {name: without_titles(inner) for name, inner in value.items()}
        if word in named and isinstance(value, Mapping)
        else (value if word in ("enum", "const", "default", "examples", "required") else without_titles(value))
        for word, value in schema.items()
        if not (word == "title" and isinstance(value, str))
    }


def _destructive(name: str, description: str, hints: Any) -> str | None:
    """Return why a tool looks destructive: the server's own hints where it gives any, else words."""
    reads, destroys = (None if hints is None else field(hints, name) for name in ("readOnlyHint", "destructiveHint"))
    if reads is not None:
        if not reads:
            return "the server says that it changes something (readOnlyHint=false)"
        return "the server says both read-only and destructive" if destroys else None
    if destroys is not None:
        return "the server says that it destroys something (destructiveHint=true)" if destroys else None
    named, described = _words(name), [_bare(word) for word in _words(description)[:1]]
    if verbs := [w for place, w in enumerate(named) if w in (_CHANGES if place else _CHANGES_FIRST)]:
        return f"its name says {verbs[0]!r}"
    return f"its description begins with {described[0]!r}" if set(described) & _CHANGES_FIRST else None


def _bare(verb: str) -> str:
    """Return `delete` for `deletes` and `push` for `pushes`."""
    forms = (verb, verb.removesuffix("s"), verb.removesuffix("es"))
    return next((form for form in forms if form in _CHANGES_FIRST), verb)


def _words(text: str) -> list[str]:
    return [w.lower() for w in _WORD.findall(text)]


def choose(
    listed: Sequence[Any], *, names: Sequence[str] | None, allow: Sequence[str], most: int, place: str
) -> tuple[tuple[Tool, ...], tuple[LeftOut, ...]]:
    """Return the tools an agent is offered, in the server's order, and those it is not, each with the reason.

    Args:
        listed: what the server lists.
        names: only these, or None for all.
        allow: destructive tools that are allowed.
        most: most tools that are taken.
        place: what errors call the server.

    Raises:
        ConfigError: a named tool does not exist, or nothing is left.
        McpServerError: the server has no tools.
    """
    if not listed:
        raise McpServerError(f"the server {place!r} lists no tools; there is nothing for an agent to learn there")
    _check_names(names or (), "--tools", listed, place)
    _check_names(allow, "--allow-tool", listed, place)
    taken: list[Tool] = []
    left: list[LeftOut] = []
    for candidate in listed:
        reason = None
        try:
            tool = to_tool(candidate)
        except ValueError as unusable:
            left.append(LeftOut(name=candidate.name, reason=str(unusable)))
            continue
        if tool.destructive and tool.name not in allow:
            reason = f"looks destructive: {tool.destructive}; allow it with --allow-tool {tool.name}"
        elif names is not None and tool.name not in names:
            reason = "not chosen"
        elif len(taken) >= most:
            reason = f"only the first {most} tools are taken; choose with --tools, or raise Limits.max_tools"
        if reason is None:
            taken.append(tool)
        else:
            left.append(LeftOut(name=tool.name, reason=reason))
    if not taken:
        said = "\n".join(f"  {out.name}: {out.reason}" for out in left[:10])
        raise ConfigError(f"none of the {len(left)} tools of {place!r} can be used:\n{said}")
    return tuple(taken), tuple(left)


def _check_names(names: Sequence[str], option: str, listed: Sequence[Any], place: str) -> None:
    known = [tool.name for tool in listed]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known[:5]
            raise ConfigError(f"{option} names {name!r}, which {place!r} does not list; it has {', '.join(near)}, …")


def refuse_arguments(tool: Tool, arguments: Mapping[str, Any]) -> str | None:
    """Return why the tool's schema refuses these arguments, or None where it takes them."""
    kind = validator_for(tool.parameters)
    error = next(iter(kind(tool.parameters).iter_errors(dict(arguments))), None)
    return None if error is None else str(error.message)[:200]
