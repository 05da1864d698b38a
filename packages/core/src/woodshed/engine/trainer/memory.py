"""How much memory a step will need, how much is available, and how much it took."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from woodshed.engine.client.machine import available_memory
from woodshed.engine.trainer.attention.decoder import Checkpointed
from woodshed.engine.trainer.forward import ForwardMode, MicroBatch, forward_logprobs
from woodshed.engine.trainer.transients import (
    PeakOf,
    Sizes,
    Transients,
    gathered_keys,
    peak_on_gpu,
    probe_batch,
    transients,
)

_USABLE_SHARE = 0.7
"""Share of the free memory that a step may plan with; the engine's other processes grow too."""
_BACKWARD_FACTOR = 1.25
"""Peak of the backward pass, relative to what the forward pass kept for it."""
_LOG_SUM_BYTES = 4
"""Bytes of a log-sum, of which attention keeps one for each query and head."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""glibc's `mallopt` parameters (https://man7.org/linux/man-pages/man3/mallopt.3.html)."""
_MMAP_FROM_BYTES, _MAX_MMAPS = 2**18, 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryModel:
    """Bytes that a step needs, measured on a few random rows: kept for the backward pass, or only for a moment.

    On a GPU (`transients`) both are counted. On a CPU what the process takes beyond what is kept depends on the
    system's allocator, and is a share of it.
    """

    per_token: float
    """Kept for the backward pass, for each position."""
    per_token_checkpointed: float
    """The same where layers run twice."""
    per_token_selective: float
    """The same where layers but not their attention run twice."""
    per_pair: float
    """Kept for each (position, temperature) pair that predicts a token."""
    transients: Transients | None = None

    def predicted(self, batch: MicroBatch, *, checkpointed: Checkpointed) -> float:
        """Return the bytes that a micro-batch needs at its peak, without the model's weights."""
        positions, pairs = batch.input_ids_BN.numel(), len(batch.logit_row_P)
        if self.transients is None:
            return _BACKWARD_FACTOR * (positions * self._per_token(checkpointed) + pairs * self.per_pair)
        sizes = Sizes(positions=positions, pairs=pairs, gathered=gathered_keys(batch.plan))
        return self.transients.peak((self._per_token(checkpointed), self.per_pair), sizes, checkpointed)

    def max_positions(self, available: float, *, checkpointed: Checkpointed) -> int:
        """Return how many positions fit into `available` bytes if each predicts a token."""
        if self.transients is None:
            return int(available / (_BACKWARD_FACTOR * (self._per_token(checkpointed) + self.per_pair)))
        return self.transients.max_positions(available, (self._per_token(checkpointed), self.per_pair), checkpointed)

    def _per_token(self, checkpointed: Checkpointed) -> float:
        if checkpointed == "selective":
            return self.per_token_selective
        return self.per_token_checkpointed if checkpointed else self.per_token


def memory_model(
    model: Any, vocabulary: int, mode: ForwardMode, device: torch.device, peak_of: PeakOf | None = None
) -> MemoryModel:
    """Measure what this model keeps, on rows of two lengths and with two numbers of predicting positions.

    Args:
        model: A PEFT model around a causal language model.
        vocabulary: Size of its vocabulary.
        mode: How rows go through it.
        device: Where it lies.
        peak_of: Runs a function and returns the most bytes in use meanwhile beyond those before; None for the device's
            own count, which a CPU does not have.
    """
    short, long, sparse = (
        _bytes_kept(model, vocabulary, mode, device, tokens, predicting)
        for tokens, predicting in ((64, 64), (128, 128), (128, 64))
    )
    layers = max(1, int(getattr(model.config, "num_hidden_layers", 1)))
    per_pair = max(0.0, (long - sparse) / 64)
    per_token = max(1.0, (long - short) / 64 - per_pair)
    # A checkpointed layer keeps its input, and one layer at a time is run again.
    size = next(model.parameters()).element_size()
    states = layers * model.config.hidden_size * size
    again = states + per_token / layers
    heads = int(getattr(model.config, "num_attention_heads", 1))
    head_size = getattr(model.config, "head_dim", None) or model.config.hidden_size // heads
    attention = layers * heads * (head_size * size + _LOG_SUM_BYTES)
    measure = peak_of or (peak_on_gpu if device.type == "cuda" else None)
    if measure is None:
        return MemoryModel(
            per_token=per_token,
            per_token_checkpointed=min(per_token, again),
            per_token_selective=min(per_token, again + attention),
            per_pair=per_pair,
        )
    # The layer that is run again is no longer kept when the head holds its logits: it is measured with the transients.
    kept: dict[Checkpointed, float] = {False: per_token, True: states, "selective": states + attention}
    ways = [way for way in kept if not way or mode == "tree" or (mode == "flex" and way is True)]
    return MemoryModel(
        per_token=per_token,
        per_token_checkpointed=states,
        per_token_selective=states + attention,
        per_pair=per_pair,
        transients=transients(model, vocabulary, mode, device, {way: kept[way] for way in ways}, per_pair, measure),
    )


def _bytes_kept(
    model: Any, vocabulary: int, mode: ForwardMode, device: torch.device, tokens: int, predicting: int
) -> int:
    """Return the bytes that a forward pass saves for its backward pass, without weights, each storage once."""
    weights = {_local(p).untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in weights:
            saved[address] = tensor
        return tensor

    batch = probe_batch(vocabulary, mode, device, tokens, predicting)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs_M = forward_logprobs(model, batch, mode).logprobs_M
    total = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    del logprobs_M
    return total


def _local(weight: Any) -> torch.Tensor:
    """Return a weight, or this rank's share of one that is split over ranks (`sharding`)."""
    local: torch.Tensor = weight.to_local() if hasattr(weight, "to_local") else weight
    return local


def available_bytes(device: torch.device) -> float:
    """Return the bytes that a step may plan with now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return _USABLE_SHARE * (free + cached)
    return _USABLE_SHARE * available_memory()


class PeakWatch:
    """The most memory that this process used since `start`."""

    def __init__(self, device: torch.device) -> None:
        """Watch a device's memory (CPU: this process's)."""
        self.device = device
        self._before = 0.0

    def start(self) -> None:
        """Reset earlier peaks and remember what is used now."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = float(torch.cuda.memory_allocated(self.device))
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass  # an earlier peak then counts too
        self._before = _status("VmRSS")

    def figures(self) -> dict[str, float]:
        """Return the peak, and how much it is above the use at `start`, in MiB."""
        peak = float(torch.cuda.max_memory_allocated(self.device)) if self.device.type == "cuda" else _status("VmHWM")
        return {"peak_mb": peak / 2**20, "peak_step_mb": max(0.0, peak - self._before) / 2**20}


def _status(name: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(name)), 0.0)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory in this process, for the next tensor of that size.

    By default glibc returns every large tensor to the system at once, and each new one costs page faults again.
    """
    _set_malloc({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1})


def return_freed_memory() -> None:
    """Make glibc return each large tensor to the system when it is freed, at the price of page faults.

    Layers that run twice allocate small tensors between large short-lived ones. In one heap the gaps between them would
    grow to several times the memory in use.
    """
    _set_malloc({_M_MMAP_MAX: _MAX_MMAPS, _M_MMAP_THRESHOLD: _MMAP_FROM_BYTES, _M_TRIM_THRESHOLD: _MMAP_FROM_BYTES})


def _set_malloc(options: dict[int, int]) -> None:
    try:
        libc = ctypes.CDLL(None)
        for option, value in options.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
    except (OSError, AttributeError):
        pass  # not glibc
