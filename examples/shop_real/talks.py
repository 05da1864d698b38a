"""Scripted talks: what a clerk who never errs would say, taken down from the framework that is practised.

The agent runs as its author wrote it, against a scripted engine that calls the right tool and then says what the tool
returned. So the talks have the framework's own messages, and the tools of the shop answer in them. They come from a few
practice questions: enough to show the form, not to know the shop.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import random
from pathlib import Path
from typing import Any

import woodshed
from woodshed.testing import ScriptedEngine, call_tool, in_order, say, scripted_rollout
from woodshed_tiny_world import Scenario, train_scenarios
from woodshed_tiny_world.verifier import fact

_ANSWERS = {
    "get_price": "The {item} costs {fact}.",
    "get_stock": "{item}: {fact}.",
    "get_delivery": "The {item} takes {fact}.",
}


def write_talks(rollout: woodshed.RolloutFunction, file: Path, *, count: int, seed: int) -> Path:
    """Write `count` talks of practice questions to a file, one a line, and return it."""
    chosen = random.Random(f"talks/{seed}").sample(train_scenarios(), count)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(_talk(rollout, scenario)) + "\n" for scenario in chosen))
    return file


def _talk(rollout: woodshed.RolloutFunction, scenario: Scenario) -> dict[str, Any]:
    answer = _ANSWERS[scenario.wish].format(item=scenario.item, fact=fact(scenario.wish, scenario.arguments))
    script = in_order(call_tool(scenario.wish, id="call_1", **scenario.arguments), say(answer))
    with ScriptedEngine(script) as engine, scripted_rollout(engine):
        running = rollout(scenario)
        if inspect.isawaitable(running):
            asyncio.run(_finish(running))
        last = engine.requests[-1].body
    return {"messages": [*last["messages"], {"role": "assistant", "content": answer}], "tools": last["tools"]}


async def _finish(running: Any) -> None:
    await running
