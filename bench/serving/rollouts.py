"""Conversations with the tiny policy behind a real gateway, as rollouts or as calls that belong to none."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from serving.load import LONGEST, TOOLS, Connection, follow_up, opening
from woodshed.engine import Engine, EngineClient, ServedModel
from woodshed.types import OpenSession

WEIGHTS = Path(__file__).parents[2] / "packages/tiny_world/src/woodshed_tiny_world/weights/policy"
CONVERSATIONS, TURNS, CONCURRENT = 36, 4, 12
NOTE = " ".join(f"On day {day} a customer asked for item {day * 7 % 31} and came back twice." for day in range(5))
AtHalf = Callable[[], Awaitable[None]]
Seal = Callable[[int], Awaitable[None]]
"""Told of each conversation that has ended, by its number."""


@dataclass
class Talk:
    """A number of conversations."""

    calls: int = 0
    failed: int = 0
    """Conversations with a call that was not answered."""
    later_calls: int = 0
    same_replica: int = 0
    """Of the later calls of a conversation, those that were answered where the one before was."""
    seconds: float = 0.0
    tokens: list[int] = field(default_factory=list)
    """Length of each answer."""
    by_replica: dict[str, int] = field(default_factory=dict)


async def converse(
    url: str,
    keys: Sequence[str],
    name: str,
    at_half: AtHalf | None = None,
    concurrent: int = CONCURRENT,
    seal: Seal | None = None,
) -> Talk:
    """Have a conversation with each key, unlike those of other names; `at_half` is awaited after half of the calls."""
    talk, waiting, began = Talk(), iter(enumerate(keys)), time.perf_counter()
    half = asyncio.Event()

    async def caller() -> None:
        for number, key in waiting:
            connection, messages, before = Connection(url, key), opening(number), None
            # Of its own, as a document in a prompt is: only the replica that has seen it has it in its cache.
            messages[-1]["content"] += f" {name} {number}: {NOTE}"
            for turn in range(TURNS):
                call = {"model": "policy", "messages": messages, "tools": TOOLS, "max_tokens": LONGEST, "seed": number}
                status, headers, raw = await connection.post("/v1/chat/completions", json.dumps(call).encode())
                talk.calls += 1
                if talk.calls >= len(keys) * TURNS // 2:
                    half.set()
                if status != 200:
                    talk.failed += 1
                    break
                replica = headers.get("x-woodshed-replica", "1")
                talk.by_replica[replica] = talk.by_replica.get(replica, 0) + 1
                talk.later_calls += before is not None
                talk.same_replica += before == replica
                before = replica
                answer = json.loads(raw)
                talk.tokens.append(answer["usage"]["completion_tokens"])
                messages = [*messages, *follow_up(answer["choices"][0]["message"], turn)]
            connection.close()
            if seal is not None:
                await seal(number)

    callers = [asyncio.create_task(caller()) for _ in range(concurrent)]
    if at_half is not None:
        await half.wait()
        await at_half()
    await asyncio.gather(*callers)
    talk.seconds = time.perf_counter() - began
    return talk


async def rollouts(
    client: EngineClient,
    name: str,
    at_half: AtHalf | None = None,
    conversations: int = CONVERSATIONS,
    concurrent: int = CONCURRENT,
) -> tuple[Talk, list[str]]:
    """Have the conversations as rollouts, each sealed at its end: from then on its replica has room for another."""
    names = [f"{name}-{number}" for number in range(conversations)]
    keys = [(await client.open_session(OpenSession(rollout_id=one, policy="policy"))).secret for one in names]

    async def seal(number: int) -> None:
        await client.seal(names[number])

    return await converse(client.url, keys, name, at_half, concurrent, seal), names


@asynccontextmanager
async def engine(home: Path, replicas: int) -> AsyncIterator[EngineClient]:
    model = ServedModel(
        name="policy", path=str(WEIGHTS), trainable=True, replicas=replicas, max_model_len=1024, max_num_seqs=16
    )
    async with Engine.local().running([model], home, progress=print) as client:
        yield client
