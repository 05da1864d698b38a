"""How each framework words the conversation that the model sees, taken from the recorded requests of its agent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from woodshed.types import ToolSpec
from woodshed_tiny_world.scenarios import WISHES
from woodshed_tiny_world.verifier import fact, is_valid_call
from woodshed_tiny_world.world import Shop

HERE = Path(__file__).parent
QUESTION = "Is the Tuba still in stock?"
CALLED = ("get_stock", {"item": "Tuba"})
"""The question of the recorded agent, and the call it made."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The words that one framework puts around the conversation."""

    name: str
    system: str
    user: str
    """The user's message, with `QUESTION` in place of the question."""
    tools: list[dict[str, Any]]
    result: str
    """The tool's message, with the recorded fact in place of a fact."""

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as the gateway records them."""
        return tuple(
            ToolSpec(**{k: t["function"][k] for k in ("name", "description", "parameters")}) for t in self.tools
        )

    def asked(self, question: str) -> str:
        """Return the user's message for a question."""
        return self.user.replace(QUESTION, question)

    def told(self, answer: str) -> str:
        """Return the tool's message for an answer of the shop."""
        return self.result.replace(fact(*CALLED), answer)

    def answer(self, name: str, arguments: Any, shop: Shop) -> str:
        """Return what the model is told after a call, including a call that no tool accepts."""
        given = arguments if isinstance(arguments, dict) else {}
        if name in WISHES and (is_valid_call(name, arguments) or (self.name == "adk" and self._taken(name, given))):
            return self.told(self._fact(name, given, shop))
        return REFUSALS[self.name](name, given)

    def _taken(self, name: str, given: Mapping[str, Any]) -> bool:
        """Return whether ADK runs the tool: it requires all arguments and doesn't check their values."""
        return {"item", "currency"} <= given.keys() if name == "get_price" else "item" in given

    def _fact(self, name: str, given: Mapping[str, Any], shop: Shop) -> str:
        if name == "get_price" and given["currency"] not in ("EUR", "USD"):
            known = fact(name, {"item": str(given["item"]), "currency": "USD"}, shop)
            return known.replace("USD", str(given["currency"]))
        return fact(name, {k: str(v) for k, v in given.items()}, shop)


def _langgraph(name: str, given: Mapping[str, Any]) -> str:
    if name not in WISHES:
        return f"Error: {name} is not a valid tool, try one of [{', '.join(WISHES)}]."
    field, complaint = _complaint(given)
    return (
        f"Error invoking tool '{name}' with kwargs {given} with error:\n {field}: {complaint}\n"
        " Please fix the error and try again."
    )


def _crewai(name: str, given: Mapping[str, Any]) -> str:
    if name not in WISHES:
        return "Tool not found"
    field, complaint = _complaint(given)
    value: Any = given if complaint == "Field required" else given[field]
    kind = {"Field required": "missing", "Input should be a valid string": "string_type"}.get(
        complaint, "literal_error"
    )
    item = {"item": {"title": "Item", "type": "string"}}
    currency = {"currency": {"enum": ["EUR", "USD"], "title": "Currency", "type": "string"}}
    expected = item | currency if name == "get_price" else item
    return (
        f"Error executing tool: Tool '{name}' arguments validation failed: 1 validation error for {name.title()}\n"
        f"{field}\n  {complaint} [type={kind}, input_value={value!r}, input_type={type(value).__name__}]\n"
        f"    For further information visit https://errors.pydantic.dev/2.12/v/{kind}\n"
        f"Expected arguments: {json.dumps(expected)}\nRequired: {json.dumps(list(expected))}"
    )


def _adk(name: str, given: Mapping[str, Any]) -> str:
    if name not in WISHES:
        error = (
            f"Invoking `{name}()` failed as no tool with that name is available. The tools you can call are: "
            f"{', '.join(WISHES)}. You could retry, but it is IMPORTANT that you only call a tool from that list."
        )
    else:
        error = (
            f"Invoking `{name}()` failed as the following mandatory input parameters are not present:\n"
            f"{_complaint(given)[0]}\nYou could retry calling this tool, but it is IMPORTANT for you to provide all "
            "the mandatory parameters."
        )
    return json.dumps({"error": error})


def _complaint(given: Mapping[str, Any]) -> tuple[str, str]:
    if "item" not in given:
        return "item", "Field required"
    if not isinstance(given["item"], str):
        return "item", "Input should be a valid string"
    return "currency", "Input should be 'EUR' or 'USD'" if "currency" in given else "Field required"


REFUSALS = {"langgraph": _langgraph, "crewai": _crewai, "adk": _adk}


def _read(name: str) -> Dialect:
    first, second = json.loads((HERE / "requests" / f"{name}.json").read_text())
    system, user = (m["content"] for m in first["messages"])
    told = second["messages"][-1]["content"]
    return Dialect(name=name, system=system, user=user, tools=first["tools"], result=told)


DIALECTS = tuple(_read(name) for name in ("langgraph", "crewai", "adk"))
