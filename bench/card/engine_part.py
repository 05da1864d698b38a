"""The engine on a card: start, drift, a LoRA swapped under load, two models on one card, sleep; figures as JSON.

python bench/card/engine_part.py MODEL split|sleep

The model has random weights, the shape of a published one and the vocabulary of the demo's tokenizer.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import httpx
from cases import MODELS, make_model

from woodshed.engine import Engine, EngineClient, ServedModel
from woodshed.engine.client.config import GpuSharing
from woodshed.training.doctor.weights import probe, sample
from woodshed.types import OpenPolicy, OpenSession, OptimizerSettings, StepRequest, WeightedRollout

DEMO = Path(__file__).parents[2] / "packages/tiny_world/src/woodshed_tiny_world/weights/policy"
CALLERS, TOKENS, STEPS = 16, 64, 2
SAMPLING = {"temperature": 1.0}
_SLEPT = re.compile(r"falling asleep took ([\d.]+) s, waking up ([\d.]+) s")
_HELD = re.compile(r"Sleep mode freed ([\d.]+) GiB memory, ([\d.]+) GiB memory is still in use")


def main() -> None:
    """Measure and print."""
    model, sharing = sys.argv[1], cast(GpuSharing, sys.argv[2])
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")  # what vLLM frees when it sleeps is in its log
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(_measured(model, sharing, Path(folder)))))


async def _measured(model: str, sharing: GpuSharing, folder: Path) -> dict[str, Any]:
    weights, home = _save(model, folder / "model"), folder / "home"
    policy = ServedModel(
        name="policy", path=weights, trainable=True, max_model_len=1024, gpu_memory_fraction=0.35, tool_call_parser=None
    )
    models = [policy, policy.model_copy(update={"name": "judge", "trainable": False})]
    began = time.perf_counter()
    engine = Engine.local(python=sys.executable, gpu_sharing=sharing)
    async with engine.running(models, home) as client:
        figures: dict[str, Any] = {"start_s": time.perf_counter() - began}
        began = time.perf_counter()
        optimizer = OptimizerSettings(learning_rate=1e-3, warmup_steps=0)
        await client.open_policy(OpenPolicy(name="policy", optimizer=optimizer))
        figures["trainer_start_s"] = time.perf_counter() - began
        figures["drift_before"] = (await probe(client, "policy", SAMPLING)).metrics["logprob_drift_fresh"]
        figures |= await _under_load(client)
        figures["drift_after"] = (await probe(client, "policy", SAMPLING)).metrics["logprob_drift_fresh"]
        health = await client.health()
        figures |= {"failed_calls": health.failed_calls, "swaps": health.lora_swaps}
        figures["restarts"] = sum(one.restarts for one in health.models)
    logs = "\n".join(log.read_text(errors="replace") for log in (home / "logs").glob("*.log"))
    if slept := _SLEPT.findall(logs):
        figures |= {"asleep_s": float(slept[-1][0]), "awake_s": float(slept[-1][1])}
    if held := _HELD.findall(logs):
        figures |= {"sleep_freed_gib": float(held[-1][0]), "sleep_keeps_gib": float(held[-1][1])}
    return figures


async def _under_load(client: EngineClient) -> dict[str, float]:
    """Take steps while callers ask both models; return what became of the calls and how long a step took."""
    stop, tokens, failed = asyncio.Event(), 0, 0

    async def caller(number: int) -> None:
        nonlocal tokens, failed
        grant = await client.open_session(OpenSession(rollout_id=f"load-{number}", policy="policy", sampling=SAMPLING))
        async with httpx.AsyncClient(trust_env=False, timeout=300) as http:
            while not stop.is_set():
                tracked = number % 4 != 0  # every fourth asks the judge
                url, key = (grant.base_url, grant.secret) if tracked else (client.openai_base_url, client.api_key)
                body = {
                    "model": "policy" if tracked else "judge", "max_tokens": TOKENS,
                    "messages": [{"role": "user", "content": f"{number}: say something"}],
                }  # fmt: skip
                reply = await http.post(
                    f"{url}/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
                )
                failed += reply.status_code != 200
                tokens += reply.json()["usage"]["completion_tokens"] if reply.status_code == 200 else 0
        await client.seal(f"load-{number}")

    rollouts = [await sample(client, "policy", SAMPLING) for _ in range(4)]
    weighted = tuple(WeightedRollout(rollout_id=r, advantage=(-1.0) ** n) for n, r in enumerate(rollouts))
    began = time.perf_counter()
    callers = [asyncio.create_task(caller(n)) for n in range(CALLERS)]
    took = []
    for number in range(STEPS):
        await asyncio.sleep(1)
        step = time.perf_counter()
        await client.step("policy", StepRequest(step_id=f"load-{number}", rollouts=weighted))
        took.append(time.perf_counter() - step)
    stop.set()
    await asyncio.gather(*callers)
    return {"load_failed": failed, "load_tokens_per_s": tokens / (time.perf_counter() - began), "step_s": min(took)}


def _save(model: str, folder: Path) -> str:
    import torch

    demo = json.loads((DEMO / "config.json").read_text())
    shape = MODELS[model]
    made = make_model(
        type(shape)(shape.hidden, shape.layers, shape.intermediate, shape.heads, shape.key_heads,
                    int(demo["vocab_size"]), shape.tied),
        "cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16,
    )  # fmt: skip
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        setattr(made.config, name, demo.get(name))
    made.save_pretrained(folder)
    for file in DEMO.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, folder / file.name)
    del made
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return str(folder)


if __name__ == "__main__":
    main()
