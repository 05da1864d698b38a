"""What the CrewAI hooks cost: CPU time of a call with hooks and no rollout, and of a recorded call, over undecorated.

Every variant talks to the same scripted engine in a process of its own over loopback, in interleaved rounds; a
variant's figure is its smallest round. Also the CPU time of `instrument()`, and of the adapter's import after CrewAI's.
Prints a table, and JSON lines with `--json`.

    python bench/hooks_crewai.py [--rounds 30] [--calls 6] [--tokens 200] [--json]
"""

from __future__ import annotations

import os

os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CREWAI_DISABLE_TRACKING", "true")
os.environ.setdefault("OTEL_SDK_DISABLED", "true")

import argparse
import asyncio
import gc
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from etude.capture import Rollout, bind
from etude.testing import Reply, ScriptedEngine, call_tool, say

LIMITS = {"no rollout": 1.03, "recording": 1.10}
INSTRUMENT_LIMIT_S, IMPORT_LIMIT_S = 0.05, 0.1
_PROBE = """
import json, time
import crewai
before = time.process_time()
import etude_crewai
imported = time.process_time()
etude_crewai.instrument()
print(json.dumps([imported - before, time.process_time() - imported]))
"""


def serve(pipe: Connection, tokens: int) -> None:
    """Run a scripted engine and grant sessions over `pipe` until it closes."""
    answer = say("word " * tokens)

    def script(request: dict[str, Any]) -> Reply:
        return call_tool("add", a=1, b=2) if request.get("tools") and len(request["messages"]) < 3 else answer

    with ScriptedEngine(script) as engine:
        try:
            while True:
                pipe.send(engine.open(pipe.recv()))
        except EOFError:
            pass


@contextmanager
def engine_process(tokens: int) -> Iterator[Callable[[], Rollout]]:
    """Start the engine in a child process; yields a function that opens a rollout there."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, tokens), daemon=True)
    child.start()
    theirs.close()

    def open_rollout() -> Rollout:
        ours.send("bench")
        grant = ours.recv()
        return Rollout(base_url=grant.base_url, secret=grant.secret, rollout_id=grant.rollout_id)

    try:
        yield open_rollout
    finally:
        ours.close()
        child.join(10)


def cpu_seconds(work: Callable[[], Any], calls: int) -> float:
    """Return this process's CPU time per call."""
    gc.collect()
    gc.disable()
    started = time.process_time()
    for _ in range(calls):
        work()
    spent = time.process_time() - started
    gc.enable()
    return spent / calls


def measure(work: Callable[[], Any], open_rollout: Callable[[], Rollout], rounds: int, calls: int) -> dict[str, float]:
    """Return the smallest CPU time per call of each variant, in seconds."""
    from etude_crewai import CrewAIInstrumentor

    hooks, best = CrewAIInstrumentor(), {"undecorated": 9e9, "no rollout": 9e9, "recording": 9e9}

    def keep(variant: str) -> None:
        work()  # opens the rollout's connection, and refills the interpreter's caches that a change of hooks empties
        best[variant] = min(best[variant], cpu_seconds(work, calls))

    for _ in range(rounds):
        hooks.uninstrument()
        keep("undecorated")
        hooks.instrument()
        keep("no rollout")
        with bind(open_rollout()):
            keep("recording")
    hooks.uninstrument()
    return best


def works(url: str, loop: asyncio.AbstractEventLoop) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return what is measured, and how many calls one run of it weighs."""
    from crewai import LLM, Agent, Crew, Task
    from crewai.tools import tool

    @tool("add")
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    model: Any = LLM(model="gpt-4o", base_url=url, api_key="any")
    streaming: Any = LLM(model="gpt-4o", base_url=url, api_key="any", stream=True)
    clerk = Agent(role="Clerk", goal="Answer.", backstory="You count.", tools=[add], llm=model)
    crew: Any = Crew(agents=[clerk], tasks=[Task(description="1 + 2?", expected_output="A number.", agent=clerk)])
    return {
        "llm.call": (lambda: model.call("Hello"), 1),
        "llm.acall": (lambda: loop.run_until_complete(model.acall("Hello")), 1),
        "llm.call, streamed": (lambda: streaming.call("Hello"), 1),
        "crew.kickoff": (crew.kickoff, 6),
        "crew.akickoff": (lambda: loop.run_until_complete(crew.akickoff()), 6),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    options = parser.parse_args()
    os.environ.setdefault("CREWAI_STORAGE_DIR", tempfile.mkdtemp(prefix="etude-bench-"))
    report_start(options.json)
    with engine_process(options.tokens) as open_rollout, closing(asyncio.new_event_loop()) as loop:
        for name, (work, weight) in works(open_rollout().base_url, loop).items():
            work()
            report(name, measure(work, open_rollout, options.rounds, max(1, options.calls // weight)), options.json)


def report_start(as_json: bool) -> None:
    """Print what it takes to import the adapter and to hook, each the smallest of three fresh processes.

    Python compiles a module when it is first imported, unless it is kept from writing that down: a first process does.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as compiled:
        probes = [_probe({**kept, "PYTHONPYCACHEPREFIX": compiled}) for _ in range(4)][1:]
    imported, hooked = (min(probe[i] for probe in probes) for i in (0, 1))
    if as_json:
        print(json.dumps({"bench": "hooks_crewai", "import_s": imported, "instrument_s": hooked}), flush=True)
        return
    print(f"import etude_crewai after crewai {imported * 1e3:.1f} ms (≤ {IMPORT_LIMIT_S * 1e3:.0f})")
    print(f"instrument() {hooked * 1e3:.1f} ms (≤ {INSTRUMENT_LIMIT_S * 1e3:.0f})", flush=True)


def _probe(environment: dict[str, str]) -> list[float]:
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, check=True, env=environment)
    return [float(seconds) for seconds in json.loads(done.stdout)]


def report(name: str, best: dict[str, float], as_json: bool) -> None:
    """Print one line of ratios."""
    ratios = {variant: best[variant] / best["undecorated"] for variant in LIMITS}
    if as_json:
        figures = {f"{k}_ratio".replace(" ", "_"): round(v, 3) for k, v in ratios.items()}
        milliseconds = round(best["undecorated"] * 1e3, 3)
        print(
            json.dumps({"bench": "hooks_crewai", "call": name, "undecorated_ms": milliseconds, **figures}), flush=True
        )
        return
    told = "  ".join(f"{v} ×{r:.3f} (≤ {LIMITS[v]})" for v, r in ratios.items())
    print(f"{name:20} undecorated {best['undecorated'] * 1e3:7.3f} ms  {told}", flush=True)


if __name__ == "__main__":
    main()
