"""How a training scales with replicas: a discrete-event model, fed with rates measured here, checked against real ones.

    python bench/simulate.py                       # the model alone, with the rates below
    python bench/simulate.py --check [--most 3]    # measures 1 replica here, predicts 2 and 3, and measures them, too

The model is simpy's (processor sharing on each replica, queues before gateway, judge and trainer). What it leaves out:
networks between machines, prompts that miss their prefix cache, replicas that die. The gateway is one process: where it
is the bottleneck, more replicas are of no use, however many there are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import simpy
from serving.rollouts import CONCURRENT, CONVERSATIONS, TURNS, engine, rollouts
from simulation.cluster import Cluster, Rates
from simulation.training import Forecast, Training, Workload

from woodshed.engine import EngineClient

# A 3 B model in bfloat16 on a GPU of its own with 24 GiB, as its makers and vLLM's own benchmarks have it; gateway and
# store as `bench/gateway.py` measures them here. Replace them by your own.
RATES = Rates(tokens_per_s=4000, half_at=24, per_call_s=0.05, gateway_s=0.0015, store_s=0.0002, max_num_seqs=64)
WORKLOAD = Workload(
    answers=(40, 60, 80, 120, 200, 400, 900), calls_per_rollout=6, tool_s=0.5, group_size=8, groups=8,
    max_concurrency=64, max_staleness=1, judge_s=6.0, judge_at_once=32, judge_per_minute=500, step_s=2.0,
    trained_tokens_per_s=12_000, swap_s=0.3,
)  # fmt: skip
WITHIN = 0.15


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One load on real replicas."""

    calls_per_s: float
    tokens_per_s: float
    seconds_per_call: float
    answers: tuple[int, ...]
    gateway_s: float
    """Processor time of the engine's own process for a call."""
    client_s: float


def forecast(replicas: int, *, batch: int, trainers: int) -> Forecast:
    """Return what the model says of a batch, and a trainer, that are so many times as large."""
    load = replace(
        WORKLOAD, groups=WORKLOAD.groups * batch, max_concurrency=WORKLOAD.max_concurrency * batch,
        judge_at_once=WORKLOAD.judge_at_once * batch, trained_tokens_per_s=WORKLOAD.trained_tokens_per_s * trainers,
        steps=WORKLOAD.steps if replicas < 30 else 6,
    )  # fmt: skip
    return Training(replicas, RATES, load).forecast()


def print_forecasts(counts: list[int], what: str, *, batch: bool, trainers: bool) -> None:
    print(f"\n{what}\n")
    print("| replicas | rollouts/h | replicas idle | gateway | store | judge | trainer | swap | limit | staleness |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for count in counts:
        one = forecast(count, batch=count if batch else 1, trainers=count if trainers else 1)
        parts = " | ".join(f"{one.busy[name]:.0%}" for name in ("gateway", "store", "judge", "trainer", "swap"))
        print(
            f"| {count} | {one.rollouts_per_hour:,.0f} | {one.idle:.0%} | {parts} | {one.bottleneck} | "
            f"{one.staleness:.2f} |",
            flush=True,
        )


async def load(client: EngineClient, name: str, conversations: int, concurrent: int) -> Measured:
    """Put one load on the engine."""
    process = next(p for p in psutil.Process().children() if "woodshed.engine" in p.cmdline())
    before, mine = sum(process.cpu_times()[:2]), time.process_time()
    talk, _ = await rollouts(client, name, conversations=conversations, concurrent=concurrent)
    assert not talk.failed
    return Measured(
        calls_per_s=talk.calls / talk.seconds,
        tokens_per_s=sum(talk.tokens) / talk.seconds,
        seconds_per_call=talk.seconds * min(concurrent, conversations) / talk.calls,
        answers=tuple(talk.tokens),
        gateway_s=(sum(process.cpu_times()[:2]) - before) / talk.calls,
        client_s=(time.process_time() - mine) / talk.calls,
    )


async def measured(replicas: int) -> tuple[Measured, Measured]:
    """Return one conversation at a time, and many at once: medians of three loads each."""
    with tempfile.TemporaryDirectory() as folder:
        async with engine(Path(folder), replicas) as client:
            await load(client, "warm", CONCURRENT, CONCURRENT)
            alone = [await load(client, f"alone-{k}", 4, 1) for k in range(3)]
            many = [await load(client, f"many-{k}", CONVERSATIONS, CONCURRENT) for k in range(3)]
    return tuple(sorted(loads, key=lambda m: m.calls_per_s)[1] for loads in (alone, many))  # type: ignore[return-value]


def fitted(alone: Measured, many: Measured, cores: float) -> Rates:
    """Return the rates of one replica from its two loads.

    With k calls in flight a replica gives R k / (k + h) tokens a second; two loads give R and h.
    """
    one, all_, calls = alone.tokens_per_s, many.tokens_per_s, CONCURRENT
    half_at = max(0.01, calls * (all_ - one) / max(calls * one - all_, 1e-9))
    spent = many.gateway_s + many.client_s
    return Rates(
        tokens_per_s=one * (1 + half_at), half_at=half_at, per_call_s=0.0, gateway_s=spent, store_s=0.0,
        max_num_seqs=16, cores=max(0.2, cores - spent * many.calls_per_s),
    )  # fmt: skip


def simulated(replicas: int, rates: Rates, answers: tuple[int, ...]) -> float:
    """Return the calls per second of the load of `measured`, by the model."""
    env = simpy.Environment()
    cluster, waiting = Cluster(env, replicas, rates), iter(range(CONVERSATIONS))
    lengths = iter(answers * 2)

    def caller():  # type: ignore[no-untyped-def]
        for _ in waiting:
            replica = cluster.place()
            for _ in range(TURNS):
                yield from cluster.call(replica, next(lengths))
            replica.rollouts -= 1

    callers = [env.process(caller()) for _ in range(CONCURRENT)]
    env.run(env.all_of(callers))
    return cluster.calls / env.now


def check(most: int, file: Path | None) -> None:
    cores = float(len(psutil.Process().cpu_affinity()))
    alone, many = asyncio.run(measured(1))
    rates = fitted(alone, many, cores)
    print(f"one replica: {alone}\n{many}\n{rates}")
    rows = []
    for replicas in range(1, most + 1):
        real = many if replicas == 1 else asyncio.run(measured(replicas))[1]
        # Gateway and client take their processor time from the replicas, by as much as calls are answered.
        model = simulated(replicas, rates, many.answers)
        for _ in range(8):
            left = max(0.2, cores - rates.gateway_s * model)
            model = statistics.mean([model, simulated(replicas, replace(rates, cores=left), many.answers)])
        off = model / real.calls_per_s - 1
        rows.append({"replicas": replicas, "real": real.calls_per_s, "model": model, "off": off})
        print(f"{replicas} replicas: {real.calls_per_s:.1f} calls/s, the model says {model:.1f} ({off:+.0%})")
        if file:
            file.write_text(json.dumps(rows, indent=2))
    worst = max(abs(row["off"]) for row in rows)
    print(f"worst {worst:.0%}; wanted within {WITHIN:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="measure real replicas beside the model")
    parser.add_argument("--most", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the check's rows here, too")
    asked = parser.parse_args()
    if asked.check:
        check(asked.most, asked.json)
        return
    counts = [1, 2, 3, 5, 10, 30, 100, 300, 1000]
    print_forecasts(counts, "64 rollouts a step, whatever the replicas", batch=False, trainers=False)
    print_forecasts(counts, "64 rollouts a step for each replica, one trainer", batch=True, trainers=False)
    print_forecasts(counts, "64 rollouts a step and a trainer for each replica", batch=True, trainers=True)


if __name__ == "__main__":
    main()
