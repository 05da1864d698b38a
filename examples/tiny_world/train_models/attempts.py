"""Attempts at a question, made up or sampled: as text, as a conversation, as a `Trajectory`, and how good they are."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dialects import DIALECTS, Dialect

from woodshed.types import Completion, Message, ModelCall, TokenCall, ToolRequest, Trajectory
from woodshed_tiny_world.scenarios import WISHES, Scenario
from woodshed_tiny_world.verifier import Level, verify_messages
from woodshed_tiny_world.world import CURRENCIES, INSTRUMENTS, Shop

VERDICTS: dict[Level, tuple[str, str]] = {
    Level.CORRECT: ("goal reached", "1.0"),
    Level.ROUNDABOUT: ("goal reached with needless calls", "0.8"),
    Level.WRONG_ANSWER: ("right call, wrong answer", "0.5"),
    Level.WRONG_ARGUMENTS: ("wrong arguments", "0.3"),
    Level.WRONG_TOOL: ("wrong tool", "0.1"),
    Level.BROKEN: ("no valid call", "0.0"),
}
"""What the tiny judge learns to say about each level: explanation and score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One answer of the model, and what the tool it called returned."""

    text: str
    """What the model wrote, as decoded from its tokens: a Hermes call or plain words."""
    result: str | None = None
    """What the shop answered, or why no tool accepted the call."""
    told: str | None = None
    """The same in the framework's words; None if it passes `result` on unchanged."""


Attempt = tuple[Turn, ...]


def call_text(name: str, arguments: Any) -> str:
    """Return a Hermes tool call."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def parse_call(text: str) -> tuple[str, Any] | None:
    """Return the call in `text` as vLLM's Hermes parser would read it, or None if there is none."""
    found = re.findall(r"<tool_call>(.*?)</tool_call>|<tool_call>(.*)", text, re.DOTALL)
    try:
        told = json.loads(found[0][0] or found[0][1]) if found else None
        return (told["name"], told["arguments"]) if told else None
    except (ValueError, KeyError, TypeError):
        return None


def tool_answer(name: str, arguments: Any, shop: Shop) -> str:
    """Return what the model is told after a call by LangGraph, which adds no words of its own."""
    return DIALECTS[0].answer(name, arguments, shop)


def translated(attempt: Attempt, dialect: Dialect, shop: Shop) -> Attempt:
    """Return the attempt in a framework's own words."""
    return tuple(
        replace(turn, told=dialect.answer(*called, shop)) if turn.result and (called := parse_call(turn.text)) else turn
        for turn in attempt
    )


def answer_text(item: str, result: str) -> str:
    """Return the final answer of a good agent."""
    return f"{item}: {result}."


def conversation(scenario: Scenario, attempt: Attempt, dialect: Dialect = DIALECTS[0]) -> tuple[Message, ...]:
    """Return the attempt as the messages a gateway records."""
    messages = [
        Message(role="system", content=dialect.system),
        Message(role="user", content=dialect.asked(scenario.question)),
    ]
    for number, turn in enumerate(attempt):
        called = parse_call(turn.text)
        if called is None:
            messages.append(Message(role="assistant", content=turn.text))
            continue
        request = ToolRequest(id=f"call-{number}", name=called[0], arguments=json.dumps(called[1]))
        words = turn.text.split("<tool_call>")[0].strip()
        messages.append(Message(role="assistant", content=words or None, tool_requests=(request,)))
        if turn.result is not None:
            said = turn.result if turn.told is None else turn.told
            messages.append(Message(role="tool", content=said, tool_call_id=request.id))
    return tuple(messages)


def trajectory(scenario: Scenario, attempt: Attempt, rollout_id: str, dialect: Dialect = DIALECTS[0]) -> Trajectory:
    """Return the attempt as the trajectory a judge is shown."""
    told = conversation(scenario, attempt, dialect)
    cuts = [i for i, m in enumerate(told) if m.role == "assistant"]
    calls = tuple(
        ModelCall(
            tokens=TokenCall(
                call_id=f"{rollout_id}-{i}",
                started_s=float(i),
                latency_s=0.0,
                messages=told[:i],
                tools=dialect.specs,
                completions=(Completion(index=0, message=told[i], token_ids=(), logprobs=(), weight_versions=()),),
            )
        )
        for i in cuts
    )
    return Trajectory(rollout_id=rollout_id, scenario_id=scenario.id, calls=calls)


def level_of(scenario: Scenario, attempt: Attempt, shop: Shop) -> Level:
    """Return the true level of an attempt."""
    return verify_messages(conversation(scenario, attempt), scenario, shop).level


def reply_text(ids: Sequence[str], levels: Sequence[Level]) -> str:
    """Return the judge's answer: one entry per id, in the order shown."""
    entries = (
        f'{{"id": "{i}", "explanation": "{VERDICTS[level][0]}", "score": {VERDICTS[level][1]}}}'
        for i, level in zip(ids, levels, strict=True)
    )
    return f'{{"scores": [{", ".join(entries)}]}}'


def oracle_call(scenario: Scenario) -> tuple[str, dict[str, str]]:
    """Return the call that answers the question."""
    return scenario.wish, scenario.arguments


def confused_call(scenario: Scenario, draw: random.Random) -> tuple[str, dict[str, str]]:
    """Return the call of an agent that confuses the tools: it mostly picks a wrong one, and sometimes the right one."""
    right = WISHES.index(scenario.wish)
    name = WISHES[(right + draw.choices((0, 1, 2), (0.27, 0.58, 0.15))[0]) % 3]
    return name, arguments_for(name, scenario, draw)


def arguments_for(name: str, scenario: Scenario, draw: random.Random) -> dict[str, str]:
    """Return arguments for a tool: the right item, and usually the right currency."""
    if name != "get_price":
        return {"item": scenario.item}
    keep = scenario.currency is not None and draw.random() < 0.8
    return {"item": scenario.item, "currency": (scenario.currency or "") if keep else draw.choice(CURRENCIES)}


def other_item(item: str, draw: random.Random) -> str:
    """Return another instrument."""
    return draw.choice([i for i in INSTRUMENTS if i != item])
