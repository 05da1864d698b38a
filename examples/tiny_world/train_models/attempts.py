"""Attempts at a question, made up or sampled: as text, as a conversation, as a `Trajectory`, and their worth."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.types import Completion, Message, ModelCall, TokenCall, ToolRequest, ToolSpec, Trajectory
from etude_tiny_world.scenarios import WISHES, Scenario
from etude_tiny_world.verifier import Level, fact, is_valid_call, verify_messages
from etude_tiny_world.world import CURRENCIES, INSTRUMENTS, Shop

REQUEST: dict[str, Any] = json.loads((Path(__file__).parent / "request.json").read_text())[0]
SYSTEM: str = REQUEST["messages"][0]["content"]
TOOLS: list[dict[str, Any]] = REQUEST["tools"]
TOOL_SPECS = tuple(ToolSpec(**t["function"]) for t in TOOLS)

VERDICTS: dict[Level, tuple[str, str]] = {
    Level.CORRECT: ("goal reached", "1.0"),
    Level.ROUNDABOUT: ("goal reached with needless calls", "0.8"),
    Level.WRONG_ANSWER: ("right call, wrong answer", "0.5"),
    Level.WRONG_ARGUMENTS: ("wrong arguments", "0.3"),
    Level.WRONG_TOOL: ("wrong tool", "0.1"),
    Level.BROKEN: ("no valid call", "0.0"),
}
"""What the tiny judge is taught to say of each level: explanation and score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One answer of the model, and what the tool it called said."""

    text: str
    """What the model wrote, as tokens decode to: a Hermes call or plain words."""
    result: str | None = None


Attempt = tuple[Turn, ...]


def call_text(name: str, arguments: Any) -> str:
    """Return a Hermes tool call."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def parse_call(text: str) -> tuple[str, Any] | None:
    """Return the call in `text` as vLLM's Hermes parser would, or None where it finds none."""
    found = re.findall(r"<tool_call>(.*?)</tool_call>|<tool_call>(.*)", text, re.DOTALL)
    try:
        told = json.loads(found[0][0] or found[0][1]) if found else None
        return (told["name"], told["arguments"]) if told else None
    except (ValueError, KeyError, TypeError):
        return None


def tool_answer(name: str, arguments: Any, shop: Shop) -> str:
    """Return what the agent's framework tells the model after a call, also after a call no tool can take."""
    if name not in WISHES:
        return f"Error: {name} is not a valid tool, try one of [{', '.join(WISHES)}]."
    if not is_valid_call(name, arguments):
        complaint = _complaint(name, arguments)
        return (
            f"Error invoking tool '{name}' with kwargs {arguments} with error:\n {complaint}\n"
            " Please fix the error and try again."
        )
    return fact(name, arguments, shop)


def _complaint(name: str, arguments: Any) -> str:
    given = arguments if isinstance(arguments, dict) else {}
    if "item" not in given:
        return "item: Field required"
    if not isinstance(given["item"], str):
        return "item: Input should be a valid string"
    return "currency: Input should be 'EUR' or 'USD'" if "currency" in given else "currency: Field required"


def answer_text(item: str, result: str) -> str:
    """Return the final answer as a good clerk words it."""
    return f"{item}: {result}."


def conversation(scenario: Scenario, attempt: Attempt) -> tuple[Message, ...]:
    """Return the attempt as the messages a gateway records."""
    messages = [Message(role="system", content=SYSTEM), Message(role="user", content=scenario.question)]
    for number, turn in enumerate(attempt):
        called = parse_call(turn.text)
        if called is None:
            messages.append(Message(role="assistant", content=turn.text))
            continue
        request = ToolRequest(id=f"call-{number}", name=called[0], arguments=json.dumps(called[1]))
        words = turn.text.split("<tool_call>")[0].strip()
        messages.append(Message(role="assistant", content=words or None, tool_requests=(request,)))
        if turn.result is not None:
            messages.append(Message(role="tool", content=turn.result, tool_call_id=request.id))
    return tuple(messages)


def trajectory(scenario: Scenario, attempt: Attempt, rollout_id: str) -> Trajectory:
    """Return the attempt as the trajectory a judge is shown."""
    told = conversation(scenario, attempt)
    cuts = [i for i, m in enumerate(told) if m.role == "assistant"]
    calls = tuple(
        ModelCall(
            tokens=TokenCall(
                call_id=f"{rollout_id}-{i}",
                started_s=float(i),
                latency_s=0.0,
                messages=told[:i],
                tools=TOOL_SPECS,
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
    """Return the judge's answer: one entry an id, in the order shown."""
    entries = (
        f'{{"id": "{i}", "explanation": "{VERDICTS[level][0]}", "score": {VERDICTS[level][1]}}}'
        for i, level in zip(ids, levels, strict=True)
    )
    return f'{{"scores": [{", ".join(entries)}]}}'


def oracle_call(scenario: Scenario) -> tuple[str, dict[str, str]]:
    """Return the call that answers the question."""
    return scenario.wish, scenario.arguments


def confused_call(scenario: Scenario, draw: random.Random) -> tuple[str, dict[str, str]]:
    """Return the call of a clerk who mixes up the tools: the most frequent choice is wrong, every tool has a chance."""
    right = WISHES.index(scenario.wish)
    name = WISHES[(right + draw.choices((0, 1, 2), (0.27, 0.58, 0.15))[0]) % 3]
    return name, arguments_for(name, scenario, draw)


def arguments_for(name: str, scenario: Scenario, draw: random.Random) -> dict[str, str]:
    """Return arguments for a tool: the item asked for, and the currency asked for most of the time."""
    if name != "get_price":
        return {"item": scenario.item}
    keep = scenario.currency is not None and draw.random() < 0.8
    return {"item": scenario.item, "currency": (scenario.currency or "") if keep else draw.choice(CURRENCIES)}


def other_item(item: str, draw: random.Random) -> str:
    """Return another instrument."""
    return draw.choice([i for i in INSTRUMENTS if i != item])
