"""What the tests of the real engine share: the tiny policy, its tools and questions, and sessions to ask them in."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from woodshed.engine import EngineClient, ServedModel
from woodshed.types import (
    OpenPolicy,
    OpenSession,
    OptimizerSettings,
    SealedSession,
    SessionGrant,
    StepRequest,
    WeightedRollout,
)

WEIGHTS = Path(__file__).parents[3] / "tiny_world/src/woodshed_tiny_world/weights/policy"
ITEM = {"item": {"type": "string"}}
CURRENCY = {"currency": {"enum": ["EUR", "USD"], "type": "string"}}
SYSTEM = {"role": "system", "content": "You are the clerk of a music shop. Look it up, then answer."}
# A large rate, so that every version answers measurably unlike the one before.
POLICY = OpenPolicy(name="policy", optimizer=OptimizerSettings(learning_rate=5e-3, warmup_steps=0))
_numbers = itertools.count()


def tool(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"properties": properties, "required": list(properties), "type": "object"}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    tool("get_price", "Price of an item.", ITEM | CURRENCY),
    tool("get_stock", "How many are left.", ITEM),
    tool("get_delivery", "Days to deliver an item.", ITEM),
]


def models() -> list[ServedModel]:
    policy = ServedModel(name="policy", path=str(WEIGHTS), trainable=True, dtype="float32", max_num_seqs=32)
    return [policy, policy.model_copy(update={"name": "judge", "trainable": False})]


def question(text: str = "Is the Harp still in stock?", **extra: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [SYSTEM, {"role": "user", "content": text}], "max_tokens": 40} | extra


@dataclass
class RunningEngine:
    client: EngineClient
    home: Path

    @asynccontextmanager
    async def session(self, **extra: Any) -> AsyncIterator[Session]:
        """Open a session and an ordinary OpenAI client for it."""
        rollout_id = f"rollout/{next(_numbers)}"
        grant = await self.client.open_session(OpenSession(rollout_id=rollout_id, policy="policy", **extra))
        async with openai.AsyncOpenAI(base_url=grant.base_url, api_key=grant.secret, max_retries=0) as agent:
            yield Session(engine=self, grant=grant, agent=agent)

    @asynccontextmanager
    async def untracked(self) -> AsyncIterator[openai.AsyncOpenAI]:
        """Open an OpenAI client whose calls belong to no rollout."""
        url, key = self.client.openai_base_url, self.client.api_key
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
            yield client

    def server(self, name: str = "policy") -> dict[str, Any]:
        """Return url and pid of a vLLM server."""
        listed: dict[str, Any] = json.loads((self.home / "servers.json").read_text())[name]
        return listed

    async def answers_a_later_call(self) -> None:
        """Return when calls that came after all others are answered: by then vLLM has those at work, too.

        Three, one after the other: on a busy machine the first may overtake a call whose connection is just being made.
        """
        async with self.untracked() as client:
            for _ in range(3):
                await client.chat.completions.create(**question(model="policy"))

    async def restarts(self) -> int:
        return sum(model.restarts for model in (await self.client.health()).models)

    async def train_step(self, step_id: str, rollouts: int = 4) -> Any:
        """Record a few rollouts and take an optimizer step on them."""
        sealed = [await self.one_rollout() for _ in range(rollouts)]
        weighted = tuple(
            WeightedRollout(rollout_id=one.rollout_id, advantage=1.0 if index % 2 else -1.0)
            for index, one in enumerate(sealed)
        )
        return await self.client.step("policy", StepRequest(step_id=step_id, rollouts=weighted))

    async def one_rollout(self) -> SealedSession:
        async with self.session() as session:
            await session.ask(tools=TOOLS)
            return await session.seal()


@dataclass
class Session:
    engine: RunningEngine
    grant: SessionGrant
    agent: openai.AsyncOpenAI

    async def ask(self, text: str = "Is the Harp still in stock?", **extra: Any) -> Any:
        return await self.agent.chat.completions.create(**question(text, **extra))

    def recorded(self) -> int:
        """Return how many calls of this session have ended and are in the engine's store."""
        with closing(sqlite3.connect(self.engine.home / "engine.sqlite")) as store:
            query = "SELECT count(*) FROM calls WHERE rollout_id = ?"
            return int(store.execute(query, (self.grant.rollout_id,)).fetchone()[0])

    async def seal(self) -> SealedSession:
        return await self.engine.client.seal(self.grant.rollout_id)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
