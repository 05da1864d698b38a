"""Matrix products of a decoder layer in fp32 on one thread: torch's own and `woodshed.loss.products`, in turns.

python bench/products.py [--rounds 30]

For each shape (rows x in -> out): GFLOP per CPU second of both, each in its best round, and their ratio.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable

if importlib.util.find_spec("torch") is None:
    from woodshed.engine.client.provision import engine_python

    sys.exit(subprocess.run([str(engine_python()), *sys.argv], check=False).returncode)

import torch

from woodshed.loss.products import linear

SHAPES = ((3072, 256, 128), (3072, 256, 256), (3072, 256, 768), (3072, 768, 256), (3072, 512, 1536), (1024, 256, 4096))


def seconds(product: Callable[[], torch.Tensor]) -> float:
    """Return the CPU seconds of one product."""
    began = time.process_time()
    product()
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for rows, width, out in SHAPES:
        x, to_out, weight = torch.randn(rows, width), torch.randn(rows, out), torch.randn(out, width)
        pairs = {
            "forward": (lambda: x @ weight.t(), lambda: linear(x, weight)),  # noqa: B023
            "backward": (lambda: to_out @ weight, lambda: linear(to_out, weight.t())),  # noqa: B023
        }
        for name, (torchs, ours) in pairs.items():
            times = [(seconds(torchs), seconds(ours)) for _ in range(options.rounds)]
            plain, best = (2 * rows * width * out / 1e9 / min(one) for one in zip(*times, strict=True))
            print(f"{rows} x {width:4} -> {out:4} {name:8} {plain:4.0f} {best:4.0f} GFLOP/s  {best / plain:.2f}")


if __name__ == "__main__":
    main()
