"""What a policy of a given size needs: memory and seconds of an optimizer step, memory of the engine beside it.

    python bench/hardware.py [--policies 135M 0.5B 3B 7B] [--threads 2]

Weights are random, shapes are those of published models. A step is measured on models with one and with three of the
shape's layers and reckoned for all of them, since every layer costs the same; policies up to 0.5B are measured whole,
too, and the reckoned figures stand beside. A step trains 4 groups of 8 rollouts: 512 shared tokens and 128 of each
rollout's own, so 6,144 unique tokens; groups go through the trainer one after the other. fp32, as on a CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

if importlib.util.find_spec("torch") is None:
    from woodshed.engine.client.provision import engine_python

    sys.exit(subprocess.run([str(engine_python()), *sys.argv], check=False).returncode)

sys.path.insert(0, str(Path(__file__).parent / "sizes"))
from published import POLICIES, Published

WORKER = Path(__file__).parent / "sizes" / "step.py"
GROUPS = 4
SESSIONS, SESSION_TOKENS = 32, 1024
"""What the engine's KV cache is reckoned for."""
WHOLE_UP_TO = 0.6e9
"""Parameters up to which a policy is measured with all its layers."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What training one group costs: GiB for good, GiB during the step, as predicted and as taken; seconds."""

    held: float
    predicted: float
    taken: float
    seconds: float

    def plus_layers(self, other: Cost, layers: float) -> Cost:
        """Return the cost with `layers` times what `other` (two layers more) costs beyond this one."""
        pairs = zip(self._figures(), other._figures(), strict=True)
        return Cost(*(few + layers * (more - few) / 2 for few, more in pairs))

    def _figures(self) -> tuple[float, float, float, float]:
        return self.held, self.predicted, self.taken, self.seconds


def measured(name: str, layers: int, threads: int) -> Cost:
    """Return the cost of a group with so many of a policy's layers, measured in a process of its own."""
    command = [sys.executable, str(WORKER), name, str(layers), str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print one line a policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", choices=list(POLICIES), default=list(POLICIES))
    parser.add_argument("--threads", type=int, default=2, help="threads of the trainer (2)")
    given = parser.parse_args()
    head = ("policy", "parameters", "trainer holds", "step adds", "(foreseen)", "step", "engine's weights", "KV cache")
    print(" | ".join(head), "\n" + " | ".join("---" for _ in head))
    for name in given.policies:
        shape = POLICIES[name]
        few, more = (measured(name, layers, given.threads) for layers in (1, 3))
        _show(name, shape, few.plus_layers(more, shape.layers - 1))
        if shape.parameters() <= WHOLE_UP_TO:
            _show(f"{name}, whole", shape, measured(name, shape.layers, given.threads))


def _show(name: str, shape: Published, cost: Cost) -> None:
    weights, kv = shape.parameters() * 4 / 2**30, SESSIONS * SESSION_TOKENS * shape.kv_bytes(4) / 2**30
    cells = (
        name, f"{shape.parameters() / 1e9:.2f} G", f"{cost.held:.1f} GiB", f"{cost.taken:.1f} GiB",
        f"{cost.predicted:.1f} GiB", f"{GROUPS * cost.seconds:.0f} s", f"{weights:.1f} GiB", f"{kv:.1f} GiB",
    )  # fmt: skip
    print(" | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
