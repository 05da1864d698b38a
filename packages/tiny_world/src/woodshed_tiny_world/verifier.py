"""What an attempt is truly worth. Only evaluation may ask; training never does."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from woodshed.types import Message, Trajectory
from woodshed_tiny_world.scenarios import Scenario
from woodshed_tiny_world.world import CURRENCIES, INSTRUMENTS, TOOL_NAMES, Shop, open_shop


class Level(StrEnum):
    """How far an attempt came, worst first."""

    BROKEN = "broken"
    """No call that a tool could answer: none at all, malformed, an unknown tool or refused arguments."""
    WRONG_TOOL = "wrong_tool"
    WRONG_ARGUMENTS = "wrong_arguments"
    WRONG_ANSWER = "wrong_answer"
    """The right call was made, and the final answer does not say what it returned."""
    ROUNDABOUT = "roundabout"
    """The right answer, with more calls than needed."""
    CORRECT = "correct"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The truth about one attempt."""

    level: Level
    success: float
    """1.0 where the final answer is true and the attempt looked it up, else 0.0."""


def verify(trajectory: Trajectory, scenario: Scenario, shop: Shop | None = None) -> Verdict:
    """Return the truth about a finished trajectory; one that failed or timed out is a failure of its own level."""
    talks = [c.tokens for c in trajectory.calls if c.tokens.completions]
    if not talks:
        return Verdict(level=Level.BROKEN, success=0.0)
    messages = (*talks[-1].messages, talks[-1].completions[0].message)
    return verify_messages(messages, scenario, shop)


def verify_messages(messages: tuple[Message, ...], scenario: Scenario, shop: Shop | None = None) -> Verdict:
    """Return the truth about a finished conversation."""
    level = _level(messages, scenario, shop or open_shop())
    return Verdict(level=level, success=float(level in (Level.CORRECT, Level.ROUNDABOUT)))


def fact(name: str, arguments: dict[str, str], shop: Shop | None = None) -> str:
    """Return what the shop truly answers to a valid call."""
    source = shop or open_shop()
    if name == "get_price":
        return source.price(arguments["item"], "EUR" if arguments["currency"] == "EUR" else "USD")
    return source.stock(arguments["item"]) if name == "get_stock" else source.delivery(arguments["item"])


def _level(messages: tuple[Message, ...], scenario: Scenario, shop: Shop) -> Level:
    requests = [r for m in messages if m.role == "assistant" for r in m.tool_requests]
    calls = [(r.name, _arguments(r.arguments)) for r in requests]
    valid = [(name, _used(name, arguments)) for name, arguments in calls if is_valid_call(name, arguments)]
    if not valid:
        return Level.BROKEN
    if all(name != scenario.wish for name, _ in valid):
        return Level.WRONG_TOOL
    if (scenario.wish, scenario.arguments) not in valid:
        return Level.WRONG_ARGUMENTS
    answer = messages[-1].content or ""
    if messages[-1].role != "assistant" or not says(
        answer, fact(scenario.wish, scenario.arguments, shop), scenario.item
    ):
        return Level.WRONG_ANSWER
    return Level.CORRECT if len(calls) == 1 else Level.ROUNDABOUT


def _used(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments a tool looks at; it ignores the others."""
    return {key: arguments[key] for key in (("item", "currency") if name == "get_price" else ("item",))}


def is_valid_call(name: str, arguments: Any) -> bool:
    """Say whether a tool of the shop would take this call."""
    if name not in TOOL_NAMES or not isinstance(arguments, dict) or not isinstance(arguments.get("item"), str):
        return False
    return name != "get_price" or arguments.get("currency") in CURRENCIES


def says(answer: str, fact: str, item: str) -> bool:
    """Say whether `answer` states `fact` and nothing that contradicts it: no other number, no other instrument."""
    if fact not in answer or re.findall(r"\d+", answer) != re.findall(r"\d+", fact):
        return False
    return all(other == item or other not in answer for other in INSTRUMENTS)


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
