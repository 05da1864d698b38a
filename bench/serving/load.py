"""Load for a server of chat completions, over raw sockets, so that the client does not become the bottleneck."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

CONCURRENT = 16
"""Calls in flight at the same time."""
CALLS = 96
"""Calls of a round."""
TURNS = 6
"""Calls of a conversation."""
ITEMS = ("Harp", "Lute", "Drum", "Flute", "Cello", "Banjo", "Viola")
SHORTEST, LONGEST = 16, 48
"""Fewest and most tokens of an answer."""
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
    },
}
TOOLS = [
    TOOL,
    {
        "type": "function",
        "function": {
            "name": "get_stock",
            "description": "How many are left.",
            "parameters": {"properties": {"item": {"type": "string"}}, "required": ["item"], "type": "object"},
        },
    },
]


@dataclass
class Load:
    """Results of one period of load."""

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    first_answer: dict[int, float] = field(default_factory=dict)
    """Weight version → Unix time of its first answer."""

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


class Connection:
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, url: str, key: str) -> None:
        self._address, self._key = urlsplit(url), key
        self._pipe: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return an answer's status, headers and body."""
        if self._pipe is None:
            self._pipe = await asyncio.open_connection(self._address.hostname, self._address.port, limit=2**22)
        reader, writer = self._pipe
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._address.netloc}\r\nauthorization: Bearer {self._key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))

    def close(self) -> None:
        """Close the connection, if it was opened."""
        if self._pipe is not None:
            self._pipe[1].close()


def body(number: int, **extra: Any) -> bytes:
    messages = [
        {"role": "system", "content": "You are a careful assistant of a small shop. Use the tools."},
        {"role": "user", "content": f"How many red lamps are in stock? (question {number})"},
    ]
    # Answers of many lengths, as in reality: equal ones would all end at once, and vLLM would wait for the clients.
    tokens = SHORTEST + number * 7 % (LONGEST - SHORTEST + 1)
    call = {"model": "policy", "messages": messages, "tools": [TOOL], "max_tokens": tokens, "ignore_eos": True}
    return json.dumps(call | {"temperature": 1.0} | extra).encode()


async def load(url: str, key: str, *, until: asyncio.Event | None = None, **extra: Any) -> Load:
    """Keep `CONCURRENT` calls in flight: `CALLS` of them, or until `until` is set."""
    result, numbers = Load(), _numbers(until)
    began = time.perf_counter()

    async def caller() -> None:
        connection = Connection(url, key)
        for number in numbers:
            status, headers, _ = await connection.post("/v1/chat/completions", body(number, **extra))
            result.calls += 1
            result.failed += status != 200
            result.first_answer.setdefault(int(headers.get("x-woodshed-weight-version", 0)), time.time())
        connection.close()

    await asyncio.gather(*(caller() for _ in range(CONCURRENT)))
    result.seconds = time.perf_counter() - began
    return result


def _numbers(until: asyncio.Event | None) -> Iterator[int]:
    number = 0
    while number < CALLS if until is None else not until.is_set():
        yield number
        number += 1


async def converse(url: str, keys: Sequence[str]) -> Load:
    """Run a conversation of `TURNS` calls for each key, `CONCURRENT` at a time."""
    result, waiting = Load(), iter(enumerate(keys))
    began = time.perf_counter()

    async def caller() -> None:
        for number, key in waiting:
            connection, messages = Connection(url, key), opening(number)
            for turn in range(TURNS):
                call = {"model": "policy", "messages": messages, "tools": TOOLS, "max_tokens": LONGEST, "seed": number}
                status, _, raw = await connection.post("/v1/chat/completions", json.dumps(call).encode())
                result.calls += 1
                result.failed += status != 200
                messages = [*messages, *follow_up(json.loads(raw)["choices"][0]["message"], turn)]
            connection.close()

    await asyncio.gather(*(caller() for _ in range(CONCURRENT)))
    result.seconds = time.perf_counter() - began
    return result


def opening(number: int) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "You are the clerk of a music shop. Look it up, then answer."},
        {"role": "user", "content": f"Is the {ITEMS[number % len(ITEMS)]} still in stock?"},
    ]


def follow_up(answer: dict[str, Any], turn: int) -> Iterator[dict[str, Any]]:
    """Yield the answer as a client sends it back, and the messages after it."""
    calls = answer.get("tool_calls") or []
    yield {"role": "assistant", "content": answer["content"] or ""} | ({"tool_calls": calls} if calls else {})
    for call in calls:
        yield {"role": "tool", "tool_call_id": call["id"], "content": json.dumps({"left": turn})}
    if not calls:
        yield {"role": "user", "content": f"And the {ITEMS[turn % len(ITEMS)]}?"}
