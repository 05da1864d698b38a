"""What the gateway costs and how fast new weights answer, measured on one engine in one run.

    python bench/gateway.py [--rounds 5] [--json FILE]

1. Calls per second at 16 concurrent calls: through the gateway (tracked: tokens asked for, recorded, stripped) against
   vLLM itself, asked for plain text and asked for tokens and log-probabilities too. Rounds alternate; medians are
   compared.
2. Optimizer steps under the same load: from a step's checkpoint on disk to the first answer by the new weights, and how
   many calls failed.

Needs the engine environment. The load comes from raw sockets, so that the client does not become the bottleneck.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from etude.engine import Engine, EngineClient, ServedModel
from etude.types import OpenPolicy, OpenSession, SealedSession, SessionGrant, StepRequest, WeightedRollout

CONCURRENT = 16
CALLS = 320
SHORTEST, LONGEST = 16, 48
WEIGHTS = Path(__file__).parents[1] / "packages/tiny_world/src/etude_tiny_world/weights/policy"
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
    },
}


@dataclass
class Load:
    """What a stretch of load saw."""

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    first_answer: dict[int, float] = field(default_factory=dict)
    """Weight version → Unix time of the first answer that it gave."""

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


class Connection:
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, url: str, key: str) -> None:
        self._at, self._key = urlsplit(url), key
        self._pipe: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return an answer's status, headers and body."""
        if self._pipe is None:
            self._pipe = await asyncio.open_connection(self._at.hostname, self._at.port, limit=2**22)
        reader, writer = self._pipe
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._at.netloc}\r\nauthorization: Bearer {self._key}\r\n"
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
    # Answers of many lengths, as real ones are: equal ones would all end in one step, and vLLM would wait for clients.
    tokens = SHORTEST + number * 7 % (LONGEST - SHORTEST + 1)
    call = {"model": "policy", "messages": messages, "tools": [TOOL], "max_tokens": tokens, "ignore_eos": True}
    return json.dumps(call | {"temperature": 1.0} | extra).encode()


async def load(url: str, key: str, *, until: asyncio.Event | None = None, **extra: Any) -> Load:
    """Keep `CONCURRENT` calls in flight: `CALLS` of them, or until told to stop."""
    seen, numbers = Load(), _numbers(until)
    began = time.perf_counter()

    async def caller() -> None:
        connection = Connection(url, key)
        for number in numbers:
            status, headers, _ = await connection.post("/v1/chat/completions", body(number, **extra))
            seen.calls += 1
            seen.failed += status != 200
            seen.first_answer.setdefault(int(headers.get("x-etude-weight-version", 0)), time.time())
        connection.close()

    await asyncio.gather(*(caller() for _ in range(CONCURRENT)))
    seen.seconds = time.perf_counter() - began
    return seen


def _numbers(until: asyncio.Event | None) -> Iterator[int]:
    number = 0
    while number < CALLS if until is None else not until.is_set():
        yield number
        number += 1


async def throughput(client: EngineClient, vllm: str, rounds: int) -> dict[str, float]:
    """Compare the gateway with vLLM itself."""
    tokens = {"logprobs": True, "return_token_ids": True}
    rates: dict[str, list[float]] = {"gateway": [], "vllm": [], "vllm_with_tokens": []}
    for turn in range(rounds + 1):
        grant = await client.open_session(OpenSession(rollout_id=f"throughput-{turn}", policy="policy"))
        seen = {
            "vllm": await load(vllm, "none"),
            "gateway": await load(client.url, grant.secret),
            "vllm_with_tokens": await load(vllm, "none", **tokens),
        }
        assert not any(stretch.failed for stretch in seen.values()), "a call failed without a reason to"
        if turn:  # the first round warms everything up
            for name, stretch in seen.items():
                rates[name].append(stretch.rate)
    return {f"{name}_calls_per_s": statistics.median(found) for name, found in rates.items()}


async def swaps(client: EngineClient, home: Path, steps: int) -> dict[str, float]:
    """Take optimizer steps while calls keep coming."""
    await client.open_policy(OpenPolicy(name="policy"))
    delays: list[float] = []
    calls = failed = 0
    for number in range(steps):
        grant, sealed = await _rollouts(client, f"step-{number}")
        stop = asyncio.Event()
        loading = asyncio.create_task(load(client.url, grant.secret, until=stop))
        await asyncio.sleep(1.0)
        weighted = tuple(
            WeightedRollout(rollout_id=one.rollout_id, advantage=1.0 if index % 2 else -1.0)
            for index, one in enumerate(sealed)
        )
        report = await client.step("policy", StepRequest(step_id=f"step-{number}", rollouts=weighted))
        assert report.trained, report
        await asyncio.sleep(2.0)
        stop.set()
        seen = await loading
        saved = (home / "policies" / "policy" / "run" / "checkpoints" / f"{report.version:05d}").stat().st_ctime
        delays.append(seen.first_answer[report.version] - saved)
        calls, failed = calls + seen.calls, failed + seen.failed
    health = await client.health()
    return {
        "swaps": health.lora_swaps,
        "checkpoint_to_first_answer_s_median": statistics.median(delays),
        "checkpoint_to_first_answer_s_max": max(delays),
        "calls_during_swaps": calls,
        "failed_calls": failed + health.failed_calls,
        "engine_rss_mb": health.rss_mb,
    }


async def _rollouts(client: EngineClient, name: str) -> tuple[SessionGrant, list[SealedSession]]:
    """Record a few rollouts to train on, and open one more session for the load."""
    sealed = []
    for index in range(4):
        grant = await client.open_session(OpenSession(rollout_id=f"{name}-{index}", policy="policy"))
        connection = Connection(client.url, grant.secret)
        await connection.post("/v1/chat/completions", body(index))
        connection.close()
        sealed.append(await client.seal(grant.rollout_id))
    return await client.open_session(OpenSession(rollout_id=f"{name}-load", policy="policy")), sealed


@contextlib.asynccontextmanager
async def engine(home: Path) -> AsyncIterator[tuple[EngineClient, str]]:
    """Start an engine and yield a client and the address of its vLLM."""
    model = ServedModel(name="policy", path=str(WEIGHTS), trainable=True)
    began = time.perf_counter()
    async with Engine.local().running([model], home, progress=print) as client:
        print(f"engine ready after {time.perf_counter() - began:.1f} s")
        yield client, json.loads((home / "servers.json").read_text())["policy"]["url"]


async def measure(rounds: int, steps: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        async with engine(home) as (client, vllm):
            found = await throughput(client, vllm, rounds)
            found["gateway_over_vllm"] = found["gateway_calls_per_s"] / found["vllm_calls_per_s"]
            found["gateway_over_vllm_with_tokens"] = (
                found["gateway_calls_per_s"] / found["vllm_with_tokens_calls_per_s"]
            )
            return found | await swaps(client, home, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    asked = parser.parse_args()
    found = asyncio.run(measure(asked.rounds, asked.steps))
    for name, value in found.items():
        print(f"{name:40} {value:10.3f}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
