"""Flash attention in fp32 on one thread of this CPU, its products by MKL and by oneDNN, in turns.

python bench/attention.py [--rounds 5]

For each size of a call (queries x keys): nanoseconds of CPU time for each pair of a query and a key, forward and
backward, and how many times as fast oneDNN is; then the memory that a process keeps for a call of a new size.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

if importlib.util.find_spec("torch") is None:
    from woodshed.engine.client.provision import engine_python

    sys.exit(subprocess.run([str(engine_python()), *sys.argv], check=False).returncode)

import psutil
import torch

from woodshed.engine.trainer.attention.cpu_flash import _FLASH, _FLASH_BACK, _by_onednn, onednn_is_better
from woodshed.engine.trainer.memory import keep_freed_memory

HEADS, KEY_HEADS, SIZE = 4, 2, 64
SIZES = ((64, 256), (128, 128), (256, 256), (256, 384), (256, 512), (768, 256), (768, 384), (768, 512), (2048, 1024))
NEW_SIZES = ((2000, 500), (1000, 700), (3000, 333))
"""None of them whole blocks."""


def call(queries: int, keys: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the forward and the backward pass of a call of this size."""
    query, to_out = torch.randn(2, 1, HEADS, queries, SIZE)
    key, value = torch.randn(2, 1, KEY_HEADS, keys, SIZE)
    out, log_sum = _FLASH(query, key, value, 0.0, False, scale=0.1)
    return (
        lambda: _FLASH(query, key, value, 0.0, False, scale=0.1),
        lambda: _FLASH_BACK(to_out, query, key, value, out, log_sum, 0.0, False, scale=0.1),
    )


def seconds(run: Callable[[], object], by_onednn: bool) -> float:
    """Return the CPU seconds of one pass."""
    with _by_onednn() if by_onednn else nullcontext():
        began = time.process_time()
        run()
        return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for queries, keys in SIZES:
        best = []
        for run in call(queries, keys):
            rounds = [(seconds(run, False), seconds(run, True)) for _ in range(1 + options.rounds)][1:]
            best.append([1e9 * min(times) / (HEADS * queries * keys) for times in zip(*rounds, strict=True)])
        (mkl, onednn), (mkl_back, onednn_back) = best
        print(
            f"{queries:4} x {keys:4}  MKL {mkl:5.2f} + {mkl_back:5.2f} ns  oneDNN {onednn:5.2f} + {onednn_back:5.2f} ns"
            f"  {(mkl + mkl_back) / (onednn + onednn_back):.2f}"
        )
    for queries, keys in NEW_SIZES:
        runs = call(queries, keys)
        for run in runs:
            run()
        before = psutil.Process().memory_info().rss
        for run in runs:
            seconds(run, True)
        kept = (psutil.Process().memory_info().rss - before) / 2**20
        print(f"{queries:4} x {keys:4}, a new size by oneDNN: {kept:.0f} MiB kept")
    print(f"the trainer would take oneDNN for whole blocks here: {onednn_is_better()}")


if __name__ == "__main__":
    main()
