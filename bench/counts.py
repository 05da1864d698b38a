"""What one step runs, by count: operators, conversions between precisions, and products, per decoder layer.

    python bench/counts.py [--layers 4] [--precision bf16] [--top 24]

Seconds depend on the machine and on who else uses it; counts don't. The model is a random one in the form of Qwen2.5
(biases on q, k and v, two key heads), trained on a group with a common prompt. Two depths are run, and what both have
is taken off. On a GPU there are fewer: torch's norm is one kernel there, and attention takes bf16.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

if importlib.util.find_spec("torch") is None:
    from woodshed.engine.client.provision import engine_python

    sys.exit(subprocess.run([str(engine_python()), *sys.argv], check=False).returncode)

sys.path.insert(0, str(Path(__file__).parent / "card"))
import torch
from cases import CASES, make_model
from ours import batch_of
from published import Published
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = {
    "products": ("mm", "addmm", "bmm", "_linear_pointwise", "linear"),
    "attention": ("_scaled_dot_product",),
    "conversions and copies": ("_to_copy", "copy_", "clone"),
}
FREE = (
    "view", "t.", "transpose", "detach", "slice", "select", "unsqueeze", "expand", "as_strided", "unfold", "alias",
    "split", "permute", "empty", "new_empty", "_unsafe_view", "squeeze", "unbind", "_local_scalar", "is_same_size",
    "lift", "reshape",
)  # fmt: skip
"""Operators that compute nothing."""


class Counting(TorchDispatchMode):
    """Counts the operators that compute something."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Count one operator."""
        out = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").removeprefix("mkldnn::")
        if not any(name.startswith(free.rstrip(".")) if free != "t." else name == "t" for free in FREE):
            self.found[name.split(".")[0]] += 1
        return out


def counted(layers: int, dtype: torch.dtype) -> Counter[str]:
    """Return the operators of one step's forward and backward pass."""
    from by_us import runner_of

    shape = Published(64, layers, 128, 4, 2, 512, tied=True)
    runner = runner_of(make_model(shape, "cpu", dtype))
    batch = batch_of(CASES["tiny-turns"].attempts(shape.vocabulary), CASES["tiny-turns"].rollouts)
    parts = runner.micro_batches(batch)
    with Counting() as counting:
        runner.accumulate(batch, parts)
    return counting.found


def kind(name: str) -> str:
    """Return what kind of operator it is."""
    return next((k for k, starts in KINDS.items() if name.startswith(starts)), "element-wise and reductions")


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--top", type=int, default=24)
    asked = parser.parse_args()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[asked.precision]
    few, many = counted(asked.layers, dtype), counted(2 * asked.layers, dtype)
    each = {name: (count - few[name]) / asked.layers for name, count in many.items() if count != few[name]}
    by_kind: Counter[str] = Counter()
    for name, count in each.items():
        by_kind[kind(name)] += count  # type: ignore[assignment]
    print(f"operators of a layer, forward and backward, {asked.precision}: {sum(each.values()):.0f}")
    for name, count in by_kind.most_common():
        print(f"  {count:6.1f} {name}")
    for name, count in sorted(each.items(), key=lambda item: -item[1])[: asked.top]:
        print(f"         {count:6.1f} {name}")


if __name__ == "__main__":
    main()
