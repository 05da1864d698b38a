"""What going on from tokens costs beside a plain render, in vLLM's process and over HTTP. Run with the engine's Python.

python docs/decisions/0008_probe.py [--turns 6] [--calls 200]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from woodshed.engine import Engine, ServedModel

WEIGHTS = Path(__file__).parents[2] / "packages/tiny_world/src/woodshed_tiny_world/weights/policy"
QUESTION = {"role": "user", "content": "Is the Harp still in stock?"}
HEADERS = {"content-type": "application/json"}
ANSWER = {"structured_outputs": {"regex": "(3 are left, price 12\\. ){8}"}}


def post(url: str, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Return an answer and how many milliseconds it took."""
    request = urllib.request.Request(url, json.dumps(body).encode(), HEADERS)
    began = time.perf_counter()
    with urllib.request.urlopen(request) as reply:
        raw = reply.read()
    return json.loads(raw), (time.perf_counter() - began) * 1e3


def probe(url: str, turns: int, calls: int) -> None:
    """Hold a conversation, then ask for one more token of it in each way, in turn."""
    chat, render = f"{url}/v1/chat/completions", f"{url}/v1/chat/completions/render"
    shape = {"model": "policy", "max_tokens": 1, "return_token_ids": True, "temperature": 0}
    messages: list[dict[str, Any]] = [QUESTION]
    turn: dict[str, Any] = {}
    for _ in range(turns):
        answer, _ = post(chat, shape | {"messages": messages, "max_tokens": 200} | ANSWER)
        (choice,) = answer["choices"]
        messages = [*messages, {"role": "assistant", "content": choice["message"]["content"]}]
        turn = {"prompt_ids": answer["prompt_token_ids"], "sampled_ids": choice["token_ids"]}
        turn |= {"length": len(messages), "is_rendered": True}
        messages.append(QUESTION)
    # Other tokens than the message's own stand for a turn that the template would spell otherwise.
    respelled = turn | {"sampled_ids": [turn["sampled_ids"][0], *turn["sampled_ids"]]}
    ways: dict[str, list[float]] = {"plain": [], "continued": [], "continued, respelled": [], "render over HTTP": []}
    for _ in range(calls):
        ways["plain"].append(post(chat, shape | {"messages": messages})[1])
        for name, past in (("continued", turn), ("continued, respelled", respelled)):
            answer, took = post(
                chat, shape | {"messages": messages, "kv_transfer_params": {"woodshed_history": [past]}}
            )
            ways[name].append(took)
            known = past["prompt_ids"] + past["sampled_ids"]
            assert answer["prompt_token_ids"][: len(known)] == known, name
        ways["render over HTTP"].append(post(render, {"model": "policy", "messages": messages})[1])
    print(f"prompt of {len(answer['prompt_token_ids'])} tokens")
    for name, seen in ways.items():
        print(f"{name:22} median {statistics.median(seen):7.2f} ms   fastest {min(seen):7.2f} ms")


async def main() -> None:
    """Run it on an engine of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--calls", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = ServedModel(name="policy", path=str(WEIGHTS), trainable=True)
        async with Engine.local().running([model], Path(folder)):
            server = json.loads((Path(folder) / "servers.json").read_text())["policy"]
            HEADERS["authorization"] = f"Bearer {server['key']}"
            await asyncio.to_thread(probe, server["url"], asked.turns, asked.calls)


if __name__ == "__main__":
    asyncio.run(main())
