"""Check that the model itself calls tools: a few answers are sampled, and read by the parser and by all others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from woodshed.capture import new_id
from woodshed.engine.client.client import EngineClient
from woodshed.errors import EngineError
from woodshed.training.doctor.finding import Finding, failed, passed, warned
from woodshed.types import Completion, OpenSession, ReadCalls, ReadCallsRequest, RenderRequest, Serving

_CHECK = "tool calls"
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_stock",
        "description": "How many are left.",
        "parameters": {"properties": {"item": {"type": "string"}}, "required": ["item"], "type": "object"},
    },
}
_SYSTEM = "You are the clerk of a music shop. Look it up, then answer."
_ITEMS = ("Harp", "Guitar", "Violin", "Flute")
_SAMPLES = 8
_TOKENS, _ROOM = 256, 24
_TRAIN = (
    "take a model that was trained to call tools, teach this one with `woodshed sft` from talks that hold calls, or "
    "set Policy.tool_call_parser=None for an agent without tools"
)
_USUAL = ("hermes", "llama3_json", "mistral", "pythonic", "qwen3_coder")
"""Parsers that are named first where several read the same calls."""


async def check_tool_calls(
    client: EngineClient, policy: str, sampling: Mapping[str, Any], serving: Serving, *, thorough: bool = True
) -> Finding:
    """Check that sampled answers hold tool calls that the served parser reads; if none, which parser would.

    Eight answers are sampled at the policy's own settings, to questions that offer one tool. The policy is not changed.

    Args:
        client: The engine.
        policy: Name of the policy, which must be open.
        sampling: Its sampling parameters.
        serving: How it is served.
        thorough: Whether to try all other parsers where the served one reads no call, which imports vLLM: half a
            minute on two cores.
    """
    name = serving.tool_call_parser
    if name is None:
        return passed(_CHECK, "not sampled: there is no tool parser, for an agent without tools")
    question = RenderRequest(messages=tuple(_question(_ITEMS[0])), tools=(_TOOL,))
    length = len((await client.render(policy, question)).token_ids)
    room = min(_TOKENS, serving.max_model_len - length - _ROOM)
    if room < _ROOM:
        return warned(
            _CHECK,
            f"not sampled: one question with one tool takes {length} of the {serving.max_model_len} tokens",
            "an agent's prompts will hardly fit: raise Policy.max_model_len",
        )
    answers = await _sampled(client, policy, {**sampling, "max_tokens": min(room, sampling.get("max_tokens") or room)})
    read = sum(bool(answer.message.tool_requests) for answer in answers)
    found = f"{read} of {len(answers)} sampled answers hold a tool call that {name!r} reads"
    if read:
        return passed(_CHECK, found)
    if not thorough:
        advice = "`woodshed doctor` tries all other parsers on such answers; if none reads them: "
        return failed(_CHECK, found, advice + _TRAIN)
    tried = ReadCallsRequest(tools=(_TOOL,), answers=tuple(answer.token_ids for answer in answers))
    return judge_unread(name, answers, await client.read_calls(policy, tried))


def judge_unread(name: str, answers: Sequence[Completion], others: ReadCalls) -> Finding:
    """Say what becomes of sampled answers in which the parser `name` reads no call."""
    if others.parsers:
        best = min(others.parsers, key=lambda parser: (-others.parsers[parser], parser not in _USUAL, parser))
        found = f"0 of {len(answers)} sampled answers hold a tool call that {name!r} reads; {best!r} reads"
        return failed(_CHECK, f"{found} {others.parsers[best]}", f"set Policy.tool_call_parser={best!r}")
    found = f"0 of {len(answers)} sampled answers hold a tool call that any parser reads"
    if all(answer.finish_reason == "length" for answer in answers):
        return warned(
            _CHECK,
            f"{found}; all were cut at their {len(answers[0].token_ids)} tokens",
            "a model that thinks first may need more (Policy.max_tokens, Policy.max_model_len); if not, " + _TRAIN,
        )
    return failed(_CHECK, f"{found}, such as {_short(others.texts[0])}", _TRAIN)


async def _sampled(client: EngineClient, policy: str, sampling: Mapping[str, Any]) -> Sequence[Completion]:
    """Return answers to questions that offer a tool, sampled at once in a session of their own.

    Raises:
        EngineError: A call was not answered.
    """
    rollout_id = f"doctor-{new_id()}"
    grant = await client.open_session(OpenSession(rollout_id=rollout_id, policy=policy, sampling=dict(sampling)))
    headers = {"authorization": f"Bearer {grant.secret}"}
    try:
        # The engine is on loopback or in the same network: never use a proxy from the environment.
        async with httpx.AsyncClient(trust_env=False, timeout=300.0, base_url=grant.base_url, headers=headers) as http:
            await asyncio.gather(*(_ask(http, policy, _ITEMS[k % len(_ITEMS)]) for k in range(_SAMPLES)))
    finally:
        sealed = await client.seal(rollout_id)
    return [call.completions[0] for call in sealed.calls if call.completions]


async def _ask(http: httpx.AsyncClient, policy: str, item: str) -> None:
    body = {"model": policy, "messages": _question(item), "tools": [_TOOL]}
    try:
        answer = await http.post("chat/completions", json=body)
    except httpx.HTTPError as error:
        raise EngineError(f"a question was not answered: {type(error).__name__}: {error}") from error
    if answer.status_code != 200:
        raise EngineError(f"a question with a tool was answered {answer.status_code}: {answer.text[:500]}")


def _question(item: str) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": f"How many of the {item} do you have?"},
    ]


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:120] + "…")
