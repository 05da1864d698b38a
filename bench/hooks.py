"""What the LangGraph hooks cost: CPU time of a call with hooks and no rollout, and of a recorded call, over unwrapped.

Every variant talks to the same scripted engine in a process of its own over loopback, in interleaved rounds; a
variant's figure is its smallest round. Prints a table, and JSON lines with `--json`.

    python bench/hooks.py [--rounds 30] [--calls 6] [--tokens 200] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

from etude.capture import Rollout, bind
from etude.testing import Reply, ScriptedEngine, call_tool, say
from etude_langgraph import LangGraphInstrumentor

LIMITS = {"no rollout": 1.05, "recording": 1.15}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def serve(pipe: Connection, tokens: int) -> None:
    """Run a scripted engine and grant sessions over `pipe` until it closes."""
    answer = say("word " * tokens)

    def script(request: dict[str, Any]) -> Reply:
        return call_tool("add", a=1, b=2) if request.get("tools") and len(request["messages"]) == 1 else answer

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


def cpu_seconds(work: Callable[[], None], calls: int) -> float:
    """Return this process's CPU time per call."""
    gc.collect()
    gc.disable()
    started = time.process_time()
    for _ in range(calls):
        work()
    spent = time.process_time() - started
    gc.enable()
    return spent / calls


def measure(work: Callable[[], None], open_rollout: Callable[[], Rollout], rounds: int, calls: int) -> dict[str, float]:
    """Return the smallest CPU time per call of each variant, in seconds."""
    hooks, best = LangGraphInstrumentor(), {"unwrapped": 9e9, "no rollout": 9e9, "recording": 9e9}

    def keep(variant: str) -> None:
        work()  # opens the rollout's connection, and refills the interpreter's caches that a change of hooks empties
        best[variant] = min(best[variant], cpu_seconds(work, calls))

    for _ in range(rounds):
        hooks.uninstrument()
        keep("unwrapped")
        hooks.instrument()
        keep("no rollout")
        with bind(open_rollout()):
            keep("recording")
    hooks.uninstrument()
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    options = parser.parse_args()
    with engine_process(options.tokens) as open_rollout, closing(asyncio.new_event_loop()) as loop:
        model = ChatOpenAI(model="m", api_key="any", base_url=open_rollout().base_url)  # type: ignore[arg-type]
        graph: Any = create_agent(model, [add])
        question = {"messages": [{"role": "user", "content": "What is 1 + 2?"}]}

        def stream() -> None:
            for _ in model.stream("Hello"):
                pass

        works: dict[str, tuple[Callable[[], Any], int]] = {
            "model.invoke": (lambda: model.invoke("Hello"), 1),
            "model.ainvoke": (lambda: loop.run_until_complete(model.ainvoke("Hello")), 1),
            "model.stream": (stream, 1),
            "create_agent.invoke": (lambda: graph.invoke(question), 4),
            "create_agent.ainvoke": (lambda: loop.run_until_complete(graph.ainvoke(question)), 4),
        }
        for name, (work, weight) in works.items():
            work()
            report(name, measure(work, open_rollout, options.rounds, max(1, options.calls // weight)), options.json)


def report(name: str, best: dict[str, float], as_json: bool) -> None:
    """Print one line of ratios."""
    ratios = {variant: best[variant] / best["unwrapped"] for variant in LIMITS}
    if as_json:
        figures = {f"{k}_ratio".replace(" ", "_"): round(v, 3) for k, v in ratios.items()}
        milliseconds = round(best["unwrapped"] * 1e3, 3)
        print(json.dumps({"bench": "hooks", "call": name, "unwrapped_ms": milliseconds, **figures}), flush=True)
        return
    told = "  ".join(f"{v} ×{r:.3f} (≤ {LIMITS[v]})" for v, r in ratios.items())
    print(f"{name:22} unwrapped {best['unwrapped'] * 1e3:6.3f} ms  {told}", flush=True)


if __name__ == "__main__":
    main()
