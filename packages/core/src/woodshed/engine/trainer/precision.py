"""The precision of the base model: the one in which this machine trains faster, measured once per process."""

from __future__ import annotations

import logging
import time
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

_log = logging.getLogger("woodshed.trainer")

_ROUNDS, _HEADS = 3, 4
_TOKENS, _HIDDEN, _WORDS = {"cpu": 128, "cuda": 4096}, {"cpu": 256, "cuda": 2048}, {"cpu": 1024, "cuda": 32768}
_MIN_SPEEDUP = {"cpu": 3.0, "cuda": 1.2}
"""How much faster bfloat16 must be to be chosen: its mantissa has 8 bits, fp32's 24. On a CPU the limit is high, so
that only matrix units reach it, and so that a busy machine does not change the precision of a resumed run."""


@cache
def faster_dtype(kind: str) -> torch.dtype:
    """Return bfloat16 if a step in it is clearly faster on a device of this kind, else fp32, and log the times.

    The forward and backward pass of a layer and an output head are measured, not a matrix product alone: a processor
    that multiplies bfloat16 faster may lose more time in the other operations.
    """
    layers = {dtype: _tensors(kind, dtype) for dtype in (torch.float32, torch.bfloat16)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine several threads would wait for each other, which counts as CPU time
    try:
        # In turns, so that other work on the machine affects both.
        rounds = [[_seconds(kind, tensors) for tensors in layers.values()] for _ in range(_ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    slow, fast = (min(times) for times in zip(*rounds, strict=True))
    chosen = torch.bfloat16 if slow >= _MIN_SPEEDUP[kind] * fast else torch.float32
    _log.info(
        "training in %s: on %s a layer takes %.1f ms in fp32, %.1f in bf16, and bf16 is used if it is at least "
        "%.1f times as fast", chosen, kind, 1e3 * slow, 1e3 * fast, _MIN_SPEEDUP[kind],
    )  # fmt: skip
    return chosen


def _tensors(kind: str, dtype: torch.dtype) -> list[Tensor]:
    """Return the states and weights of a layer and an output head."""
    tokens, hidden = _TOKENS[kind], _HIDDEN[kind]
    draw = torch.Generator().manual_seed(0)
    sizes = ((tokens, hidden), (3 * hidden, hidden), (3 * hidden, hidden), (hidden, 3 * hidden), (_WORDS[kind], hidden))
    states, *weights = ((0.05 * torch.randn(size, generator=draw)).to(kind, dtype) for size in sizes)
    return [states.requires_grad_(), *weights]


def _seconds(kind: str, tensors: list[Tensor]) -> float:
    """Return the seconds of one forward and backward pass."""
    # On a CPU, the time of other processes should not count.
    clock = time.process_time if kind == "cpu" else time.perf_counter
    began = clock()
    _layer(*tensors).backward()
    if kind == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def _layer(states: Tensor, qkv: Tensor, gate: Tensor, down: Tensor, words: Tensor) -> Tensor:
    normed = functional.rms_norm(states, states.shape[-1:])
    parts = functional.linear(normed, qkv).unflatten(-1, (3, _HEADS, -1)).permute(1, 2, 0, 3)[:, None]
    seen = functional.scaled_dot_product_attention(*parts, is_causal=True)[0].transpose(0, 1).flatten(1)
    wide = functional.linear(functional.rms_norm(states + seen, states.shape[-1:]), gate)
    states = states + seen + functional.linear(functional.silu(wide) * wide, down)
    return functional.linear(states, words).float().logsumexp(-1).sum()
