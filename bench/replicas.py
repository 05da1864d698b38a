"""Replicas of a served model: prefix cache, spread of the load, a death on the way, and swaps over 1, 2 and 3 of them.

    python bench/replicas.py [--most 3] [--json FILE]

The tiny policy on real vLLM servers of this machine, behind the gateway. `with sessions` are rollouts, whose calls stay
on one replica; `without` are the same conversations by calls that belong to no rollout, which go where least is to do.
All servers share this machine's cores, so the calls per second of several say nothing of several machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving.rollouts import CONVERSATIONS, converse, engine, rollouts

from woodshed.engine import EngineClient
from woodshed.types import OpenPolicy, StepRequest, WeightedRollout

STEPS = 5


@dataclass
class Figures:
    """What was measured with one number of replicas."""

    replicas: int
    calls_per_s: float
    same_replica: float
    same_replica_without: float
    cached_calls: float
    cached_tokens: float
    cached_calls_without: float
    cached_tokens_without: float
    spread: float
    """Calls of the busiest replica over the mean."""
    swap_s: list[float]
    rss_mb: float
    kill: dict[str, Any] | None = None


async def cached(client: EngineClient, since: Sequence[float] = (0.0, 0.0, 0.0)) -> tuple[float, float, list[float]]:
    """Return the shares of calls and of prompt tokens that met their prefix cache since then, and all counts so far."""
    (model,) = (await client.health()).models
    counts = [
        float(sum(one.calls for one in model.replicas)),
        sum(one.calls * (one.cached_calls or 0.0) for one in model.replicas),
        sum(one.calls * (one.cached_tokens or 0.0) for one in model.replicas),
    ]
    calls, with_cache, tokens = (now - before for now, before in zip(counts, since, strict=True))
    return with_cache / calls, tokens / calls, counts


async def swaps(client: EngineClient, names: Sequence[str]) -> list[float]:
    """Take optimizer steps while calls keep coming, and return the seconds of each swap."""
    taken = []
    for number in range(STEPS):
        weighted = tuple(
            WeightedRollout(rollout_id=name, advantage=1.0 if index % 2 else -1.0)
            for index, name in enumerate(names[number * 4 : number * 4 + 4])
        )
        loading = asyncio.create_task(rollouts(client, f"during-{number}"))
        await client.step("policy", StepRequest(step_id=f"step-{number}", rollouts=weighted))
        (model,) = (await client.health()).models
        assert model.swap_s is not None
        taken.append(model.swap_s)
        talk, _ = await loading
        assert not talk.failed, "a call failed during a swap"
    return taken


async def kill_one(client: EngineClient, home: Path) -> dict[str, Any]:
    """Kill a replica in the middle of the conversations, and return what became of them."""
    (before,) = (await client.health()).models
    began = 0.0

    async def kill() -> None:
        nonlocal began
        pid = json.loads((home / "servers.json").read_text())["policy#2"]["pid"]
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)

    talk, _ = await rollouts(client, "killed", kill)
    (model,) = (await client.health()).models
    while any(one.state != "ready" for one in model.replicas):
        await asyncio.sleep(0.2)
        (model,) = (await client.health()).models
    return {
        "calls": talk.calls,
        "failed_rollouts": talk.failed,
        "moved_rollouts": model.moved_sessions - before.moved_sessions,
        "failed_calls": (await client.health()).failed_calls,
        "back_after_s": time.perf_counter() - began,
        "version": (await client.health()).policies[0].version,
    }


async def measure(replicas: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        async with engine(home, replicas) as client:
            await client.open_policy(OpenPolicy(name="policy"))
            talk, names = await rollouts(client, "talk")
            calls, tokens, counts = await cached(client)
            loose = await converse(client.url, [client.api_key or ""] * CONVERSATIONS, "loose")
            loose_calls, loose_tokens, _ = await cached(client, counts)
            swapped = await swaps(client, names)
            rss_mb = (await client.health()).models[0].rss_mb
            killed = await kill_one(client, home) if replicas > 2 else None
    spread = [talk.by_replica.get(str(number + 1), 0) for number in range(replicas)]
    return Figures(
        replicas=replicas,
        calls_per_s=talk.calls / talk.seconds,
        same_replica=talk.same_replica / talk.later_calls,
        same_replica_without=loose.same_replica / loose.later_calls,
        cached_calls=calls,
        cached_tokens=tokens,
        cached_calls_without=loose_calls,
        cached_tokens_without=loose_tokens,
        spread=max(spread) / statistics.mean(spread),
        swap_s=swapped,
        rss_mb=rss_mb,
        kill=killed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=3, help="measure 1 to so many replicas")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    asked = parser.parse_args()
    all_figures = []
    for replicas in range(1, asked.most + 1):
        all_figures.append(asyncio.run(measure(replicas)))
        if asked.json:
            asked.json.write_text(json.dumps([asdict(one) for one in all_figures], indent=2))
    print("\n| replicas | calls/s | later calls on the same replica (without sessions) | calls with cached prompt | "
          "cached tokens | busiest / mean | swap s, median (max) | MiB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for one in all_figures:
        print(
            f"| {one.replicas} | {one.calls_per_s:.1f} | {one.same_replica:.1%} ({one.same_replica_without:.1%}) | "
            f"{one.cached_calls:.1%} ({one.cached_calls_without:.1%}) | "
            f"{one.cached_tokens:.1%} ({one.cached_tokens_without:.1%}) | {one.spread:.2f} | "
            f"{statistics.median(one.swap_s):.3f} ({max(one.swap_s):.3f}) | {one.rss_mb:.0f} |"
        )
    for one in all_figures:
        if one.kill is not None:
            print(f"\none of {one.replicas} replicas killed half-way: {one.kill}")


if __name__ == "__main__":
    main()
