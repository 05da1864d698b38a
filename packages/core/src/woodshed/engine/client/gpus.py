"""The GPUs of this machine, and which of them each vLLM server gets."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping


def gpu_ids() -> tuple[str, ...]:
    """Return the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not count:
        return tuple(map(str, range(count)))
    return tuple(name.strip() for name in allowed.split(",") if name.strip())


def spread(servers: Mapping[str, tuple[int, float]], count: int) -> dict[str, tuple[int, ...]]:
    """Return server → indices of its GPUs, of `count`: each gets those of which least is taken so far.

    `servers` is server → how many GPUs it is spread over (at most `count`), and the share of each that it takes.
    """
    taken, placed = [0.0] * count, {}
    for name, (width, share) in servers.items():
        placed[name] = tuple(sorted(sorted(range(count), key=lambda gpu: taken[gpu])[:width]))
        for gpu in placed[name]:
            taken[gpu] += share
    return placed
