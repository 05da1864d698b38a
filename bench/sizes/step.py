"""Train one group of 8 rollouts on a random model, and print what it cost as JSON.

python bench/sizes/step.py POLICY LAYERS THREADS
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from published import POLICIES, Published
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))
from ours import batch_of
from shapes import Attempt, random_tokens

from woodshed.engine.trainer import loader
from woodshed.engine.trainer.memory import keep_freed_memory, return_freed_memory
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.step import StepRunner
from woodshed.types import LoraSettings, LossSettings, OpenPolicy

ROLLOUTS, SHARED, OWN = 8, 512, 128


def main() -> None:
    """Take a warming step and two that count; the faster one's seconds."""
    name, layers, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    loader.faster_dtype = lambda kind: torch.float32  # type: ignore[assignment]
    policy = _policy(POLICIES[name], layers)
    for parameter in policy.model.parameters():
        parameter.sum()  # weights are read from the disk when they are first used
    return_freed_memory()
    held = _status("VmRSS")
    keep_freed_memory()
    runner = StepRunner(policy)
    batch = batch_of(_attempts(POLICIES[name].vocabulary), ROLLOUTS)
    steps = []
    for _ in range(3):
        began = time.monotonic()
        metrics = runner.take(batch, 0)
        steps.append((time.monotonic() - began, metrics))
    predicted = max(m["peak_step_predicted_mb"] for _, m in steps)
    print(json.dumps({
        "held": held / 2**30,
        "predicted": predicted / 2**10,
        "taken": max(m["peak_mb"] for _, m in steps) / 2**10 - held / 2**30,
        "seconds": min(seconds for seconds, _ in steps[1:]),
    }))  # fmt: skip


def _policy(shape: Published, layers: int) -> LoraPolicy:
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
        max_position_embeddings=4096, tie_word_embeddings=shape.tied,
    )  # fmt: skip
    torch.manual_seed(0)
    settings = OpenPolicy(
        name="bench", lora=LoraSettings(rank=16, alpha=32), loss=LossSettings(preset="dapo", drift_stop=1e9)
    )
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return LoraPolicy(folder, settings)


def _attempts(vocabulary: int) -> list[Attempt]:
    draw = random.Random(0)
    prompt = random_tokens(draw, vocabulary, SHARED)
    return [Attempt(k, prompt, ((True, random_tokens(draw, vocabulary, OWN)),)) for k in range(ROLLOUTS)]


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
