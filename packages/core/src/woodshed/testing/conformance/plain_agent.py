"""An agent of no framework: chat completions and tool calls in a loop, for rows that no framework touches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx

from woodshed.capture import current_rollout
from woodshed.testing.conformance.adapter import Tool


class PlainAgent:
    """Calls the model of the current rollout until it answers without a tool call."""

    def __init__(self, tools: Sequence[Tool] = ()) -> None:
        """Offer the model some functions of one argument, `item`."""
        self._tools = {tool.__name__: tool for tool in tools}
        self._offered = [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": tool.__doc__ or "",
                    "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
                },
            }
            for name, tool in self._tools.items()
        ]

    def run(self, question: str) -> str:
        """Return the model's final answer."""
        rollout = current_rollout()
        assert rollout is not None, "a plain agent has no model of its own: run it inside a rollout"
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": "Answer in one sentence."},
            {"role": "user", "content": question},
        ]
        # The engine is on loopback: a proxy of the environment never leads there.
        headers = {"Authorization": f"Bearer {rollout.secret}"}
        with httpx.Client(base_url=rollout.base_url, headers=headers, trust_env=False, timeout=60.0) as http:
            while True:
                said = self._ask(http, messages)
                messages.append(said)
                if not said.get("tool_calls"):
                    return str(said["content"])
                messages += [self._answer(call) for call in said["tool_calls"]]

    def _ask(self, http: httpx.Client, messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
        body = {"model": "gpt-4o-mini", "messages": messages} | ({"tools": self._offered} if self._offered else {})
        reply = http.post("chat/completions", json=body)
        reply.raise_for_status()
        said = reply.json()["choices"][0]["message"]
        return {key: said[key] for key in ("role", "content", "tool_calls") if said.get(key) is not None}

    def _answer(self, call: dict[str, Any]) -> dict[str, Any]:
        name = call["function"]["name"]
        tool = self._tools.get(name)
        result = f"there is no tool {name!r}" if tool is None else tool(**json.loads(call["function"]["arguments"]))
        return {"role": "tool", "tool_call_id": call["id"], "content": str(result)}
