"""Steps of one trainer on one group, in a process of its own; the figures as one line of JSON, or why there are none.

python bench/card/step.py ours|half|plain|unsloth|trl|async MODEL CASE STEPS [checkpoint] [limit=GIB]
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print must not mix with the figures

NEEDS = {"ours": "peft", "half": "peft", "plain": "peft", "unsloth": "unsloth", "trl": "trl", "async": "trl"}
OURS = ("ours", "half", "plain", "unsloth")


def main() -> None:
    """Take the steps and print the best of those after the first."""
    who, model, case, steps, *options = sys.argv[1:]
    if importlib.util.find_spec(NEEDS[who]) is None:
        answer({"absent": f"{NEEDS[who]} is not installed here"})
        return
    os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "1")
    if who == "unsloth":
        import unsloth  # noqa: F401  # before transformers and PEFT, which it patches
    import torch
    from cases import CASES, MODELS, step_flops

    shape = MODELS[model]
    attempts = CASES[case].attempts(shape.vocabulary)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    limits = [float(option.removeprefix("limit=")) for option in options if option.startswith("limit=")]
    taking = _trainer(who, *limits)(shape, attempts, device, "checkpoint" in options)
    took, figures = [], {}
    for _ in range(int(steps)):
        synchronize(device)
        began = time.perf_counter()
        figures = next(taking)
        synchronize(device)
        took.append(time.perf_counter() - began)
    best = min(took[1:])
    rows = sum(len(attempt.prompt) + len(attempt.tokens) for attempt in attempts)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    flops = step_flops(shape, attempts, packed=who in (*OURS, "async") and not figures.get("rows"))
    answer(
        {"seconds": best, "first_s": took[0], "tokens_per_s": rows / best, "tflops": flops / best / 1e12,
         "peak_gib": peak, **figures}
    )  # fmt: skip


def _trainer(who: str, limit_gib: float | None = None) -> Callable[..., Iterator[dict[str, Any]]]:
    if who in OURS:
        from by_us import steps

        return lambda *given: steps(
            *given, unsloth=who == "unsloth", kernels="plain" if who == "plain" else "auto", limit_gib=limit_gib
        )
    if who == "trl":
        from by_trl import steps as trl_steps

        return trl_steps
    from by_async_grpo import steps as async_steps

    return async_steps


def synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def answer(figures: dict[str, Any]) -> None:
    _OUT.write(json.dumps(figures) + "\n")
    _OUT.flush()


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        # A rival that cannot run here is a row of the table that says so; ours is an error of the benchmark.
        import traceback

        traceback.print_exc()
        answer({"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"})
