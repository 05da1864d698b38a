"""The schemas and tools of Google's types → JSON schema and OpenAI's function tools. Pure functions.

Only ADK needs this: the other frameworks write JSON schema themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from google.genai import types
from pydantic import TypeAdapter

from woodshed.errors import ConfigError

_BY_NAME = ("properties", "$defs", "patternProperties")
"""Keywords whose keys are the author's names, not JSON schema's words."""
_VALUES = ("enum", "default", "examples", "example", "const", "required")
"""Keywords whose value is data, to be left as it is."""
_WORDS = {
    "any_of": "anyOf", "one_of": "oneOf", "all_of": "allOf", "min_items": "minItems", "max_items": "maxItems",
    "min_length": "minLength", "max_length": "maxLength", "min_properties": "minProperties",
    "max_properties": "maxProperties", "unique_items": "uniqueItems", "additional_properties": "additionalProperties",
    "ref": "$ref", "defs": "$defs",
}  # fmt: skip
"""How `types.JSONSchema` spells JSON schema's words."""


def to_json_schema(schema: Any) -> dict[str, Any]:
    """Return the JSON schema of a pydantic class, `list[...]`, `types.Schema` or a schema written as a dict."""
    if isinstance(schema, types.Schema):
        schema = schema.json_schema.model_dump(mode="json", exclude_none=True, by_alias=True)
    if isinstance(schema, Mapping):
        return {word: _value(word, value) for word, value in _spelled(schema)}
    return _of_type(schema)


@functools.cache
def _of_type(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema()


def _spelled(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a schema's items under JSON schema's own words."""
    return ((_WORDS.get(word, word), value) for word, value in schema.items())


def _plain(schema: Any) -> Any:
    """Return a schema in JSON schema's own spelling: Google's has upper-case types and snake-case words."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    return to_json_schema(schema) if isinstance(schema, Mapping) else schema


def _value(word: str, value: Any) -> Any:
    if word in _VALUES:
        return value
    if word in _BY_NAME and isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if word == "type":
        return [str(kind).lower() for kind in value] if isinstance(value, list) else str(value).lower()
    return _plain(value)


def schema_name(schema: Any) -> str:
    """Return a name for a response schema, as OpenAI's `json_schema` format wants one."""
    name = schema.get("title") if isinstance(schema, Mapping) else getattr(schema, "__name__", None)
    return name if isinstance(name, str) and name.replace("_", "").replace("-", "").isalnum() else "response"


def to_openai_tools(tools: Any, allowed: Collection[str] | None) -> list[dict[str, Any]]:
    """Return the function tools among `tools`, or only the allowed ones.

    Raises:
        ConfigError: a tool that only Google's servers can run is among them.
    """
    functions = []
    for tool in tools or ():
        refuse_server_side(tool)
        for declared in tool.function_declarations or ():
            if allowed is None or declared.name in allowed:
                functions.append(_openai_tool(declared))
    return functions


def refuse_server_side(tool: Any) -> None:
    """Raise ConfigError for a tool that is not a function of the agent's own."""
    if not isinstance(tool, types.Tool):
        raise ConfigError(f"the agent's request has a tool of type {type(tool).__name__}; expected function tools")
    ran_by_google = sorted(tool.model_fields_set - {"function_declarations"})
    named = [name for name in ran_by_google if getattr(tool, name) is not None]
    if named:
        raise ConfigError(
            f"the agent uses the tool {named[0]!r}, which Google's servers run themselves; the policy can only call "
            "function tools. Give the agent a function that does the same"
        )


def _openai_tool(declared: types.FunctionDeclaration) -> dict[str, Any]:
    schema = declared.parameters_json_schema if declared.parameters_json_schema is not None else declared.parameters
    parameters = {} if schema is None else dict(to_json_schema(schema))
    parameters.setdefault("type", "object")
    parameters.setdefault("properties", {})
    about = {"name": declared.name, "description": declared.description or "", "parameters": parameters}
    return {"type": "function", "function": about}
