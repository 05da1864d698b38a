"""What an adapter's hooks cost: shared by the benchmarks of all three adapters.

Each variant (unhooked, hooked without a rollout, recording) runs in a process of its own, as it would for a user, and
all call one scripted engine in another process. Rounds are interleaved; a variant's result is the CPU time of its
fastest round. A second unhooked process shows how much two equal processes differ here: a ratio within that is no cost.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from woodshed.capture import Rollout, bind
from woodshed.testing import Reply, ScriptedEngine, call_tool, say

LIMITS = {"no rollout": 1.03, "recording": 1.10}
VARIANTS = ("unhooked", "no rollout", "recording", "unhooked again")
IMPORT_LIMIT_S, INSTRUMENT_LIMIT_S = 0.1, 0.05
FRESH = 3
_SPAWN = multiprocessing.get_context("spawn")

Work = Callable[[], Any]


def run(module: str, *, framework: str, probe: str) -> None:
    """Measure and print one adapter's costs.

    Args:
        module: the benchmark's own module, which has `works(base_url, loop)` and `instrument()`.
        framework: its name in the table.
        probe: a program that prints two JSON figures in seconds: the adapter's import after the framework's own, and
            the first `instrument`.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=4, help="calls in a round")
    parser.add_argument("--tokens", type=int, default=200, help="words in each answer")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    options = parser.parse_args()
    _start(framework, probe, as_json=options.json)
    with engine_process(options.tokens) as open_rollout:
        names = _ask_names(module, open_rollout)
        for name in names:
            best = _measure(module, name, open_rollout, options.rounds, options.calls)
            _report(framework, name, best, as_json=options.json)


@contextmanager
def engine_process(tokens: int) -> Iterator[Callable[[], tuple[str, str, str]]]:
    """Start the engine in a child process; yields a function that opens a session: base URL, secret, rollout id."""
    ours, theirs = multiprocessing.Pipe()
    child = _SPAWN.Process(target=_serve, args=(theirs, tokens), daemon=True)
    child.start()
    theirs.close()

    def open_rollout() -> tuple[str, str, str]:
        ours.send("bench")
        grant = ours.recv()
        return grant.base_url, grant.secret, grant.rollout_id

    try:
        yield open_rollout
    finally:
        ours.close()
        child.join(10)


def _serve(pipe: Connection, tokens: int) -> None:
    """Run a scripted engine and grant sessions over `pipe` until it closes."""
    answer = say("word " * tokens)

    def script(request: dict[str, Any]) -> Reply:
        needs_tool = request.get("tools") and request["messages"][-1]["role"] == "user"
        return call_tool("add", a=1, b=2) if needs_tool else answer

    with ScriptedEngine(script) as engine:
        try:
            while True:
                pipe.send(engine.open(pipe.recv()))
        except EOFError:
            pass


def _variant(pipe: Connection, module: str, base_url: str, name: str | None, variant: str, calls: int) -> None:
    """Run one variant's rounds on request; without a name, send the names of all works."""
    bench, loop = importlib.import_module(module), asyncio.new_event_loop()
    works: dict[str, Work] = bench.works(base_url, loop)
    if name is None:
        pipe.send(list(works))
        return
    if not variant.startswith("unhooked"):
        bench.instrument()
    work = works[name]
    for _ in range(3):  # fills the caches of a fresh interpreter
        work()
    while (grant := pipe.recv()) is not None:
        if variant == "recording":
            base, secret, rollout_id = grant
            with bind(Rollout(base_url=base, secret=secret, rollout_id=rollout_id)):
                pipe.send(_cpu_seconds(work, calls))
        else:
            pipe.send(_cpu_seconds(work, calls))


def _cpu_seconds(work: Work, calls: int) -> float:
    """Return this process's CPU time per call; the first call opens connections and does not count."""
    work()
    gc.collect()
    gc.disable()
    started = time.process_time()
    for _ in range(calls):
        work()
    spent = time.process_time() - started
    gc.enable()
    return spent / calls


@contextmanager
def _process(*args: Any) -> Iterator[Connection]:
    ours, theirs = multiprocessing.Pipe()
    child = _SPAWN.Process(target=_variant, args=(theirs, *args), daemon=True)
    child.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        child.join(10)


def _ask_names(module: str, open_rollout: Callable[[], tuple[str, str, str]]) -> Sequence[str]:
    with _process(module, open_rollout()[0], None, "", 0) as pipe:
        names: Sequence[str] = pipe.recv()
        return names


def _measure(
    module: str, name: str, open_rollout: Callable[[], tuple[str, str, str]], rounds: int, calls: int
) -> dict[str, float]:
    """Return the smallest CPU time per call of each variant, in seconds."""
    with ExitStack() as stack:
        base_url = open_rollout()[0]
        pipes = {v: stack.enter_context(_process(module, base_url, name, v, calls)) for v in VARIANTS}
        best = dict.fromkeys(VARIANTS, float("inf"))
        for _ in range(rounds):
            for variant, pipe in pipes.items():
                pipe.send(open_rollout())
                best[variant] = min(best[variant], pipe.recv())
        for pipe in pipes.values():
            pipe.send(None)
    return best


def _start(framework: str, probe: str, *, as_json: bool) -> None:
    """Print the time to import the adapter and to hook, each the smallest of some fresh processes."""
    command = [sys.executable, "-c", probe]
    probes = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(FRESH)]
    imported, hooked = (min(figures[i] for figures in probes) for i in (0, 1))
    if as_json:
        print(json.dumps({"bench": f"hooks_{framework}", "import_s": imported, "instrument_s": hooked}), flush=True)
        return
    print(f"import woodshed_{framework} after its framework {imported * 1e3:.1f} ms (≤ {IMPORT_LIMIT_S * 1e3:.0f})")
    print(f"first instrument {hooked * 1e3:.1f} ms (≤ {INSTRUMENT_LIMIT_S * 1e3:.0f})", flush=True)


def _report(framework: str, name: str, best: dict[str, float], *, as_json: bool) -> None:
    """Print one line of ratios."""
    base = min(best["unhooked"], best["unhooked again"])
    ratios = {variant: best[variant] / base for variant in LIMITS}
    apart = max(best["unhooked"], best["unhooked again"]) / base
    if as_json:
        figures = {f"{k}_ratio".replace(" ", "_"): round(v, 3) for k, v in (ratios | {"unhooked twice": apart}).items()}
        print(
            json.dumps({"bench": f"hooks_{framework}", "call": name, "unhooked_ms": round(base * 1e3, 3), **figures}),
            flush=True,
        )
        return
    shown = "  ".join(f"{v} ×{r:.3f} (≤ {LIMITS[v]})" for v, r in ratios.items())
    print(f"{name:22} unhooked {base * 1e3:7.3f} ms  {shown}  two unhooked processes ×{apart:.3f}", flush=True)


sys.path.insert(0, str(Path(__file__).parent))
