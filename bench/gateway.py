"""What the gateway costs and how fast new weights answer, measured on one engine in one run.

    python bench/gateway.py [--rounds 15] [--steps 5] [--json FILE]

1. Single calls, 16 at a time: through the gateway (tracked: tokens requested, recorded, removed) compared with vLLM
   itself, both for plain text and with tokens and log-probabilities.
2. Conversations of six calls, 16 at a time: through the gateway, which continues from the sampled tokens, compared with
   vLLM, which renders each prompt again.
3. Optimizer steps under the same load: seconds from a step's checkpoint on disk to the first answer by the new weights,
   and how many calls failed.

In 1 and 2 the variants take turns, in changing order. Printed are the medians of the rounds' ratios, of calls per
second and of processor time (vLLM's processes and the engine's own; unlike the rate, it does not depend on other load).

Needs the engine environment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.load import Connection, Load, body, converse, load

from woodshed.engine import Engine, EngineClient, ServedModel
from woodshed.tokens import PrefixReuse, measure_prefix_reuse
from woodshed.types import OpenPolicy, OpenSession, SealedSession, SessionGrant, StepRequest, WeightedRollout

CONVERSATIONS = 16
"""Conversations of a round."""
WEIGHTS = Path(__file__).parents[1] / "packages/tiny_world/src/woodshed_tiny_world/weights/policy"


@dataclass(frozen=True)
class Sample:
    """Costs in one period of load."""

    rate: float
    """Calls per second."""
    cpu_s: float
    """Processor time of vLLM and the engine per call."""


async def compare(
    variants: dict[str, Callable[[int], Awaitable[Load]]], home: Path, rounds: int
) -> dict[str, list[Sample]]:
    """Let the variants take turns; the first round only warms up."""
    vllm = json.loads((home / "servers.json").read_text())["policy"]["pid"]
    engine = _parent(_parent(vllm))
    samples: dict[str, list[Sample]] = {name: [] for name in variants}
    orders = itertools.cycle(itertools.permutations(variants))
    for turn, order in zip(range(rounds + 1), orders, strict=False):
        for name in order:
            before = _cpu_s(engine)
            result = await variants[name](turn)
            assert not result.failed, "a call failed without a reason to"
            if turn:
                samples[name].append(Sample(result.rate, (_cpu_s(engine) - before) / result.calls))
    return samples


def ratios(samples: dict[str, list[Sample]], name: str, other: str, prefix: str = "") -> dict[str, float]:
    """Return the medians, over the rounds, of one variant's rate and calls per CPU second over another's."""
    pairs = list(zip(samples[name], samples[other], strict=True))
    return {
        f"{prefix}{name}_over_{other}": statistics.median(a.rate / b.rate for a, b in pairs),
        f"{prefix}{name}_over_{other}_by_cpu": statistics.median(b.cpu_s / a.cpu_s for a, b in pairs),
    }


async def throughput(client: EngineClient, vllm: tuple[str, str], home: Path, rounds: int) -> dict[str, float]:
    """Compare the gateway with vLLM itself, call by call."""
    keys = await _keys(client, [f"throughput-{turn}" for turn in range(rounds + 1)])
    tokens = {"logprobs": True, "return_token_ids": True}
    variants: dict[str, Callable[[int], Awaitable[Load]]] = {
        "vllm": lambda _: load(*vllm),
        "gateway": lambda turn: load(client.url, keys[turn]),
        "vllm_with_tokens": lambda _: load(*vllm, **tokens),
    }
    samples = await compare(variants, home, rounds)
    rates = {
        f"{name}_calls_per_s": statistics.median(one.rate for one in of_variant) for name, of_variant in samples.items()
    }
    return rates | ratios(samples, "gateway", "vllm") | ratios(samples, "gateway", "vllm_with_tokens")


async def conversations(client: EngineClient, vllm: tuple[str, str], home: Path, rounds: int) -> dict[str, float]:
    """Compare the gateway, which continues from tokens, with vLLM, which renders each prompt again."""
    names = [[f"talk-{turn}-{number}" for number in range(CONVERSATIONS)] for turn in range(rounds + 1)]
    keys = [await _keys(client, of_turn) for of_turn in names]
    variants: dict[str, Callable[[int], Awaitable[Load]]] = {
        "vllm": lambda _: converse(vllm[0], [vllm[1]] * CONVERSATIONS),
        "gateway": lambda turn: converse(client.url, keys[turn]),
    }
    samples = await compare(variants, home, rounds)
    rates = {
        f"talk_{name}_calls_per_s": statistics.median(one.rate for one in of_variant)
        for name, of_variant in samples.items()
    }
    rollouts = [(await client.seal(name)).calls for name in itertools.chain(*names)]
    sampled = statistics.mean(len(call.completions[0].token_ids) for calls in rollouts for call in calls)
    merged = sum((measure_prefix_reuse(calls) for calls in rollouts), PrefixReuse())
    merges = {"talk_merge_ratio": merged.ratio, "talk_forks": float(sum(merged.forks.values()))}
    return rates | ratios(samples, "gateway", "vllm", "talk_") | merges | {"talk_sampled_tokens_per_call": sampled}


async def _keys(client: EngineClient, rollout_ids: Sequence[str]) -> list[str]:
    return [(await client.open_session(OpenSession(rollout_id=one, policy="policy"))).secret for one in rollout_ids]


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process and all that it has started."""
    user, system = _stat(pid)[11:13]
    listed = [Path(f"/proc/{pid}/task/{task}/children").read_text() for task in os.listdir(f"/proc/{pid}/task")]
    started = sum(_cpu_s(int(child)) for child in " ".join(listed).split())
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") + started


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
        result = await loading
        saved = (home / "policies" / "policy" / "run" / "checkpoints" / f"{report.version:05d}").stat().st_ctime
        delays.append(result.first_answer[report.version] - saved)
        calls, failed = calls + result.calls, failed + result.failed
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
async def engine(home: Path) -> AsyncIterator[tuple[EngineClient, tuple[str, str]]]:
    """Start an engine and yield a client and the address of its vLLM."""
    model = ServedModel(name="policy", path=str(WEIGHTS), trainable=True)
    began = time.perf_counter()
    async with Engine.local().running([model], home, progress=print) as client:
        print(f"engine ready after {time.perf_counter() - began:.1f} s")
        server = json.loads((home / "servers.json").read_text())["policy"]
        yield client, (server["url"], server["key"])


async def measure(rounds: int, steps: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        async with engine(home) as (client, vllm):
            figures = await throughput(client, vllm, home, rounds)
            figures |= await conversations(client, vllm, home, rounds)
            return figures | (await swaps(client, home, steps) if steps else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.rounds, options.steps))
    for name, value in figures.items():
        print(f"{name:40} {value:10.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
