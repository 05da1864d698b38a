"""Whether a machine without a GPU has room for every replica that is asked for, before any of them is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from woodshed.engine.client.config import ServedModel
from woodshed.engine.client.machine import available_memory
from woodshed.engine.vllm.command import dtype_for, kv_cache_bytes, stored_dtype
from woodshed.errors import ConfigError

_GIB = 2**30
_SERVER_GIB = 0.5
"""What a server takes beside weights and KV cache; measured with a model of 3 MB, where most of vLLM is shared."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def check_room(models: Sequence[ServedModel], free: float | None = None) -> None:
    """Check that the servers of models with several replicas fit into memory; a single server is left to try.

    Args:
        models: All models of the engine, as folders.
        free: Bytes that may still be taken; None asks the machine.

    Raises:
        ConfigError: They need more than is free; names both, and how many replicas would fit.
    """
    if all(model.replicas == 1 for model in models):
        return
    free = available_memory() if free is None else free
    needs = {model.name: foreseen(model) for model in models}
    whole = sum(model.replicas * needs[model.name] for model in models)
    if whole > free:
        shares = ", ".join(f"{m.replicas} of {m.name!r} at {needs[m.name] / _GIB:.1f} GiB" for m in models)
        most = max(models, key=lambda model: model.replicas)
        others = whole - most.replicas * needs[most.name]
        fit = max(0, int((free - others) // needs[most.name]))
        raise ConfigError(
            f"the replicas need {whole / _GIB:.1f} GiB of memory ({shares}: weights, KV cache and {_SERVER_GIB} GiB "
            f"for each server), and {free / _GIB:.1f} GiB are free; expected "
            + (f"{most.name!r} with replicas={fit} at most" if fit else "fewer or smaller models")
            + ", or a smaller KV cache (kv_cache_gib is each replica's)"
        )


def foreseen(model: ServedModel) -> float:
    """Return the bytes that one server of a model will take; weights that are not on this disk are not counted."""
    weights = sum(file.stat().st_size for file in _weights(Path(model.path)))
    stored, served = stored_dtype(model), dtype_for(model, gpu=False)
    if stored in _BYTES and served in _BYTES:
        weights = weights * _BYTES[served] // _BYTES[stored]
    return weights + kv_cache_bytes(model) + _SERVER_GIB * _GIB


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
