"""`make demo-mcp`: an agent learns a music shop's MCP server, on this machine, from nothing but a judge's ranking."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import woodshed
from woodshed.errors import McpServerUnreachable
from woodshed.training.report.files import write_summary
from woodshed_tiny_world import held_out_scenarios, judge_model, policy_path, verify
from woodshed_tiny_world.demo import CONFIG, HELD_OUT_ROLLOUTS
from woodshed_tiny_world.scenarios import Scenario, all_scenarios
from woodshed_tiny_world.world import TOOL_NAMES

FOLDER = Path("runs/mcp")
HELD_OUT = frozenset(s.question for s in held_out_scenarios())


def truth(task: str) -> Scenario:
    """Return what the world knows of a task that a customer says."""
    return next(s for s in all_scenarios() if s.question == task)


def measure(trajectory: woodshed.Trajectory, scenario: woodshed.mcp.Scenario) -> float:
    """Say whether an attempt looked it up and answered truly, as the verifier of the world knows it."""
    return verify(trajectory, truth(scenario.task)).success


@contextmanager
def shop_over_http(script: Path, database: Path) -> Iterator[str]:
    """Run the shop's server for one block and yield its address; it ends with this process."""
    database.unlink(missing_ok=True)
    command = [sys.executable, str(script), "--db", str(database), "--http", "--end-with-stdin"]
    with (database.parent / "server.log").open("w") as log:
        running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert running.stdout is not None
            if not (address := running.stdout.readline().strip()):
                raise McpServerUnreachable(f"{str(script)!r} did not start; see {log.name!r}")
            yield address
        finally:
            running.kill()
            running.communicate()


def training(url: str, *, framework: str, seed: int, steps: int | None, folder: Path) -> woodshed.mcp.McpTraining:
    """Return the demo's training on the server at `url`."""
    return woodshed.mcp.McpTraining(
        server=woodshed.mcp.Server.of(url),
        policy=woodshed.Policy(
            str(policy_path()), max_model_len=512, max_tokens=48, lora=woodshed.LoraSettings(rank=16, alpha=32)
        ),
        reward=woodshed.Ruler(judge="engine/judge"),
        engine=woodshed.Engine.local(models={"judge": judge_model()}),
        config=CONFIG.model_copy(update={"seed": seed, "steps": steps or CONFIG.steps}),
        framework=framework,
        count=1000,
        # What no training of the tiny models has seen either.
        held_out=lambda scenario: scenario.task in HELD_OUT,
        tools=TOOL_NAMES,
        measure=measure,
        measure_name="the answer is true and was looked up (tiny_world's verifier)",
        rollouts_per_scenario=HELD_OUT_ROLLOUTS,
        compare=False,
        folder=folder,
    )


def said_by(url: str) -> dict[str, int]:
    """Return how many sessions the server itself has seen come and go; the last may still be going."""
    for _ in range(50):
        seen: dict[str, int] = httpx.get(url.replace("/mcp", "/sessions"), trust_env=False).json()
        if seen["opened"] == seen["closed"]:
            break
        time.sleep(0.1)
    return seen


def run(*, server: Path, framework: str, seed: int, steps: int | None, folder: Path = FOLDER) -> dict[str, Any]:
    """Make scenarios, train, measure on held-out tasks, and write `summary.json` into the folder."""
    print(
        "The judge of this demo is a small model that was taught with labels of its own world; it stands in, offline,\n"
        "for the LLM judge you would name. Nothing but its ranking enters training.",
        flush=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with shop_over_http(server, folder / "shop.sqlite") as url:
        finished = training(url, framework=framework, seed=seed, steps=steps, folder=folder).run()
        seen = said_by(url)
    figures = {**finished.figures, "seed": seed, "sessions_seen_by_the_server": seen}
    write_summary(folder, figures)
    print(json.dumps(figures, indent=2), flush=True)
    return figures


def main() -> None:
    """Run the demo; a run whose sessions were not all closed is a failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", type=Path, help="the shop's server: examples/mcp/shop_server.py")
    parser.add_argument("--framework", default="langgraph", help="what the agent is written in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimizer steps, in place of the demo's")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    chosen = parser.parse_args()
    figures = run(**vars(chosen))
    ours = {"opened": figures["sessions_opened"], "closed": figures["sessions_closed"]}
    for side, seen in (("here", ours), ("by the server", figures["sessions_seen_by_the_server"])):
        if seen["opened"] != seen["closed"]:
            sys.exit(f"counted {side}, {seen['opened']} sessions were opened and {seen['closed']} closed")


if __name__ == "__main__":
    main()
