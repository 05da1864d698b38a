"""How a training scales with replicas: a discrete-event model, fed with rates measured here, checked against real ones.

    python bench/simulate.py                       # the model alone, with the rates below
    python bench/simulate.py --check [--most 3]    # measures 1 replica here, predicts 2 and 3, and measures them, too

The model is simpy's (processor sharing on each replica, queues before gateway, judge and trainer). What it leaves out:
networks between machines, prompts that miss their prefix cache, replicas that die. The gateway is one process: where it
is the bottleneck, more replicas are of no use, however many there are.

The check runs everything on this machine, so there all processes share its cores: engine cores, their HTTP processes,
gateway and client. All that compute at a moment get an equal share, one core each at most. What a call costs each of
them is their processor time, measured with one replica under two loads; from there on the model knows nothing of the
real ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import simpy
from serving.rollouts import CONCURRENT, TURNS, engine, rollouts
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
TALKS = 144
"""Conversations of a load: 576 calls, which one replica answers in about five seconds."""
FEW = 4
"""Conversations at once of the smaller of two loads: with three replicas, about as many are on each."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One load on real replicas."""

    concurrent: int
    calls_per_s: float
    answers: tuple[int, ...]
    """Length of each in tokens."""
    replica_s: float
    """Processor time of the replicas' engine cores, for a call."""
    front_s: float
    """Processor time of the replicas' HTTP processes, for a call."""
    gateway_s: float
    """Processor time of the engine's own process, for a call."""
    client_s: float

    @property
    def core_s(self) -> float:
        """Processor time of the engine cores for a token."""
        return self.replica_s * len(self.answers) / sum(self.answers)


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """The same load on the model."""

    calls_per_s: float
    core_s: float


def forecast(replicas: int, *, batch: int, trainers: int) -> Forecast:
    """Return what the model says of a batch that is so many times as large, with so many trainers and judges."""
    load = replace(
        WORKLOAD, groups=WORKLOAD.groups * batch, max_concurrency=WORKLOAD.max_concurrency * batch,
        judge_at_once=WORKLOAD.judge_at_once * batch, judge_per_minute=WORKLOAD.judge_per_minute * trainers,
        trained_tokens_per_s=WORKLOAD.trained_tokens_per_s * trainers,
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


async def load(client: EngineClient, home: Path, name: str, concurrent: int) -> Measured:
    """Put one load on the engine."""
    servers = json.loads((home / "servers.json").read_text()).values()
    fronts = [psutil.Process(one["pid"]) for one in servers]
    cores = [core for front in fronts for core in front.children(recursive=True)]
    assert cores, "vLLM computes in the process that answers HTTP; the model expects two"
    gateway = next(p for p in psutil.Process().children() if "woodshed.engine" in p.cmdline())
    parts = (cores, fronts, [gateway])
    before, mine = [_spent(part) for part in parts], time.process_time()
    talk, _ = await rollouts(client, name, conversations=TALKS, concurrent=concurrent)
    assert not talk.failed
    replica_s, front_s, gateway_s = ((_spent(p) - b) / talk.calls for p, b in zip(parts, before, strict=True))
    return Measured(
        concurrent=concurrent,
        calls_per_s=talk.calls / talk.seconds,
        answers=tuple(talk.tokens),
        replica_s=replica_s,
        front_s=front_s,
        gateway_s=gateway_s,
        client_s=(time.process_time() - mine) / talk.calls,
    )


def _spent(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def measured(replicas: int, *concurrent: int) -> list[Measured]:
    """Return loads of so many conversations at once, each the middle one of three."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        async with engine(home, replicas) as client:
            await load(client, home, "warm", CONCURRENT)
            loads = [[await load(client, home, f"{c}-{k}", c) for k in range(3)] for c in concurrent]
    return [sorted(three, key=lambda one: one.calls_per_s)[1] for three in loads]


def fitted(few: Measured, many: Measured, cores: float) -> Rates:
    """Return the rates of one replica from its processor time under two loads.

    A step of the engine with k calls costs a + b k, and so a token a / k + b; then a replica gives R k / (k + h) tokens
    a second with R = 1 / b and h = a / b. How many calls share a step, where the others are with gateway or client, the
    model itself says: fit and model are repeated until they agree.
    """
    a, b = few.core_s / 2, few.core_s / 2
    for _ in range(30):
        rates = Rates(
            tokens_per_s=1 / b, half_at=a / b, per_call_s=0.0, gateway_s=many.gateway_s, store_s=0.0,
            client_s=many.client_s, front_s=many.front_s, max_num_seqs=16, cores=cores,
        )  # fmt: skip
        of_few, of_many = ((simulated(1, rates, one).core_s - b) / a for one in (few, many))
        a = max((few.core_s - many.core_s) / (of_few - of_many), 0.01 * many.core_s)
        b = max(many.core_s - a * of_many, 0.01 * many.core_s)
    return rates


def simulated(replicas: int, rates: Rates, real: Measured) -> Simulated:
    """Put a measured load on the model."""
    env = simpy.Environment()
    cluster, waiting = Cluster(env, replicas, rates), iter(range(TALKS))
    lengths = iter(real.answers)

    def caller():  # type: ignore[no-untyped-def]
        for _ in waiting:
            replica = cluster.place()
            for _ in range(TURNS):
                yield from cluster.call(replica, next(lengths))
            replica.rollouts -= 1

    callers = [env.process(caller()) for _ in range(real.concurrent)]
    env.run(env.all_of(callers))
    spent = sum(replica.core_s for replica in cluster.replicas)
    return Simulated(calls_per_s=cluster.calls / env.now, core_s=spent / sum(real.answers))


def check(most: int, file: Path | None) -> None:
    cores = float(len(psutil.Process().cpu_affinity()))
    few, many = asyncio.run(measured(1, FEW, CONCURRENT))
    rates = fitted(few, many, cores)
    for one in (few, many):
        print(_costs(one))
    print(rates)
    rows = []
    for replicas in range(1, most + 1):
        real = many if replicas == 1 else asyncio.run(measured(replicas, CONCURRENT))[0]
        model = simulated(replicas, rates, real)
        off = model.calls_per_s / real.calls_per_s - 1
        rows.append({"replicas": replicas, "real": real.calls_per_s, "model": model.calls_per_s, "off": off})
        print(
            f"{replicas} replicas: {real.calls_per_s:.1f} calls/s, by the model {model.calls_per_s:.1f} ({off:+.0%})\n"
            f"  a token costs {1e3 * real.core_s:.2f} ms, the model says {1e3 * model.core_s:.2f}\n  {_costs(real)}",
            flush=True,
        )
        if file:
            file.write_text(json.dumps(rows, indent=2))
    worst = max(abs(row["off"]) for row in rows)
    print(f"worst {worst:.0%}; wanted within {WITHIN:.0%}")


def _costs(one: Measured) -> str:
    parts = ((name, 1e3 * getattr(one, f"{name}_s")) for name in ("replica", "front", "gateway", "client"))
    whole = (one.replica_s + one.front_s + one.gateway_s + one.client_s) * one.calls_per_s
    return (
        f"{one.concurrent} at once: {one.calls_per_s:.1f} calls/s; processor time of a call: "
        + ", ".join(f"{name} {ms:.1f} ms" for name, ms in parts)
        + f"; {whole:.2f} cores busy with it"
    )


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
    each = "64 rollouts a step, a trainer and a judge's rate limit for each replica"
    print_forecasts(counts, each, batch=True, trainers=True)


if __name__ == "__main__":
    main()
