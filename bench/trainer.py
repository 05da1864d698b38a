"""What sharing prefixes saves in an optimizer step: packed against padded rows, on the same batch in one run.

    python bench/trainer.py [--rounds 3] [--threads 1] [--json]

A random 0.6 M parameter Qwen3; 16 groups of 8 rollouts of two calls: 300 shared prompt tokens, 46 own, and every
completion different (the worst case for sharing). Rounds alternate; a variant's figure is its smallest CPU time.
Needs the engine environment, and runs itself with the engine's python where torch is not at hand.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
import time

if importlib.util.find_spec("torch") is None:
    from etude.engine.provision import engine_python

    sys.exit(subprocess.run([str(engine_python()), *sys.argv], check=False).returncode)

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from etude.engine.trainer.batch import Batch, build_batch
from etude.engine.trainer.policy import LoraPolicy
from etude.engine.trainer.step import StepRunner
from etude.types import Completion, Message, OpenPolicy, SealedSession, StepRequest, TokenCall, WeightedRollout

VOCABULARY = 1536
GROUPS, SIZE, SYSTEM, QUESTION, TURNS = 16, 8, 280, 20, (30, 15)


def model(folder: str) -> str:
    """Write a random model and return its folder."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def batch(draw: random.Random) -> Batch:
    """Return a batch of random rollouts with random advantages."""
    sessions: dict[str, SealedSession] = {}
    system = words(draw, SYSTEM)
    for group in range(GROUPS):
        question = words(draw, QUESTION)
        for number in range(SIZE):
            name = f"{group}/{number}"
            sessions[name] = SealedSession(rollout_id=name, calls=calls(draw, name, system + question))
    rollouts = tuple(WeightedRollout(rollout_id=name, advantage=draw.choice([-0.5, 0.5])) for name in sessions)
    return build_batch(StepRequest(step_id="s", rollouts=rollouts), sessions)


def calls(draw: random.Random, name: str, prompt: tuple[int, ...]) -> tuple[TokenCall, ...]:
    """Return one call per turn, with a one-token tool result between them."""
    found = []
    for turn, length in enumerate(TURNS):
        sampled = words(draw, length)
        answer = Completion(
            index=0,
            message=Message(role="assistant"),
            token_ids=sampled,
            logprobs=(-7.3,) * length,
            weight_versions=(0,) * length,
        )
        found.append(
            TokenCall(
                call_id=f"{name}/{turn}",
                started_s=float(turn),
                latency_s=0.1,
                messages=(),
                prompt_ids=prompt,
                completions=(answer,),
            )
        )
        prompt = prompt + sampled + words(draw, 1)
    return tuple(found)


def words(draw: random.Random, count: int) -> tuple[int, ...]:
    """Return random token ids."""
    return tuple(draw.randrange(VOCABULARY) for _ in range(count))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of the table")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        runner = StepRunner(LoraPolicy(model(folder), OpenPolicy(name="bench")))
    asked_for = batch(random.Random(0))
    best: dict[str, dict[str, float]] = {}
    for _ in range(asked.rounds):
        for name, share, budget in (("packed", True, 1024), ("padded", False, 4096)):
            runner.share, runner.token_budget = share, budget
            cpu, wall = time.process_time(), time.monotonic()
            metrics = runner.take(asked_for, 0)
            took = {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall}
            if name not in best or took["cpu_s"] < best[name]["cpu_s"]:
                best[name] = {**took, "tokens": metrics["packed_tokens"]}
    ratio = best["padded"]["cpu_s"] / best["packed"]["cpu_s"]
    if asked.json:
        print(json.dumps({**best, "ratio": ratio}))
        return
    for name, took in best.items():
        print(
            f"{name}: {took['cpu_s']:.2f} CPU s, {took['wall_s']:.2f} s, {took['tokens']:.0f} tokens through the model"
        )
    print(f"one step over {GROUPS * SIZE} rollouts, {asked.threads} thread(s): padded / packed = {ratio:.2f}")


if __name__ == "__main__":
    main()
