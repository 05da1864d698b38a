"""Record the requests that the demo's agent sends in each framework, so that the tiny models train on exactly these.

Runs in the client environment, through the adapters. A scripted engine replies with one tool call and one final answer.
The results, `requests/NAME.json`, are checked in, and a test compares them with what is sent today.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

from woodshed.testing import ScriptedEngine, call_tool, in_order, say, scripted_rollout
from woodshed_tiny_world import all_scenarios
from woodshed_tiny_world.agents import CLERKS, rollout_of

HERE = Path(__file__).parent
ASKED = next(s for s in all_scenarios() if s.question == "Is the Tuba still in stock?")


def record(framework: str) -> list[dict[str, Any]]:
    """Return the bodies of the agent's two requests for one question."""
    answer = rollout_of(framework)
    script = in_order(call_tool("get_stock", id="c1", item="Tuba"), say("Tuba: 12 left."))
    with ScriptedEngine(script) as engine, scripted_rollout(engine):
        running = answer(ASKED)
        if inspect.isawaitable(running):
            asyncio.run(_finish(running))
        return [seen.body for seen in engine.requests]


async def _finish(running: Any) -> None:
    await running


def main() -> None:
    """Write `requests/NAME.json` beside this file."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for framework in CLERKS:
        (HERE / "requests" / f"{framework}.json").write_text(json.dumps(record(framework), indent=1) + "\n")


if __name__ == "__main__":
    main()
