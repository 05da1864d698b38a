"""A trainer in a process of its own: takes a step for each line of standard input and answers with its cost as JSON.

python bench/train/worker.py ours|trl fp32|bf16 CASE HIDDEN ROLLOUTS THREADS
"""

from __future__ import annotations

import json
import os
import sys
import time

_OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print must not mix with the answers


def main() -> None:
    """Answer each line until standard input ends."""
    trainer, precision, case, hidden, rollouts, threads = sys.argv[1:]
    os.environ["OMP_NUM_THREADS"] = threads
    import torch

    torch.set_num_threads(int(threads))
    if trainer == "trl":
        from with_trl import serve

        answer({"ready": 1.0})
        if sys.stdin.readline():
            serve(precision, case, int(hidden), int(rollouts), answer_step)
        return
    from ours import gemm_rate, prepare

    step, operations = prepare(precision, case, int(hidden), int(rollouts))
    answer({"ready": 1.0})
    for line in sys.stdin:
        if line.strip() == "operations":
            answer({"operations": operations(), "gemm_rate": gemm_rate(precision)})
            continue
        cpu, wall = time.process_time(), time.monotonic()
        metrics = step()
        took = {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall}
        answer({**took, **peak(), "packed_tokens": metrics["packed_tokens"], "row_tokens": metrics["row_tokens"]})


def answer_step(took: dict[str, float]) -> bool:
    """Answer with a step's cost, and return whether another step is requested."""
    answer({**took, **peak()})
    return bool(sys.stdin.readline())


def peak() -> dict[str, float]:
    """Return the most memory that this process has used, in MiB."""
    with open("/proc/self/status") as status:
        return {"peak_mb": next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))}


def answer(figures: dict[str, float]) -> None:
    _OUT.write(json.dumps(figures) + "\n")
    _OUT.flush()


if __name__ == "__main__":
    main()
