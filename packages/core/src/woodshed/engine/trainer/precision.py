"""Which precision the base model is held in: the one this machine trains faster in, measured once a process."""

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
_WORTH_IT = {"cpu": 3.0, "cuda": 1.2}
"""bfloat16 has 8 bits to fp32's 24. On a CPU only matrix units are worth that, vector instructions are not; and a busy
machine must not change what a resumed run computes in."""


@cache
def faster_dtype(kind: str) -> torch.dtype:
    """Return bfloat16 where a step in it is clearly faster on a device of this kind, else fp32, and log why.

    A layer's forward and backward pass is measured with a head, not a product alone: processors that multiply bfloat16
    faster may still lose more in everything between.
    """
    layers = {dtype: _tensors(kind, dtype) for dtype in (torch.float32, torch.bfloat16)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other on a busy machine, and count as work
    try:
        # In turns, so that what else the machine does meets both.
        rounds = [[_seconds(kind, tensors) for tensors in layers.values()] for _ in range(_ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    slow, fast = (min(times) for times in zip(*rounds, strict=True))
    chosen = torch.bfloat16 if slow >= _WORTH_IT[kind] * fast else torch.float32
    _log.info(
        "training in %s: on %s a layer takes %.1f ms in fp32, %.1f in bf16, and bf16 is taken where it is at least "
        "%.1f times as fast", chosen, kind, 1e3 * slow, 1e3 * fast, _WORTH_IT[kind],
    )  # fmt: skip
    return chosen


def _tensors(kind: str, dtype: torch.dtype) -> list[Tensor]:
    """Return the states and weights of a layer and a head."""
    tokens, hidden = _TOKENS[kind], _HIDDEN[kind]
    draw = torch.Generator().manual_seed(0)
    sizes = ((tokens, hidden), (3 * hidden, hidden), (3 * hidden, hidden), (hidden, 3 * hidden), (_WORDS[kind], hidden))
    states, *weights = ((0.05 * torch.randn(size, generator=draw)).to(kind, dtype) for size in sizes)
    return [states.requires_grad_(), *weights]


def _seconds(kind: str, tensors: list[Tensor]) -> float:
    """Return the time of one forward and backward pass."""
    # On a CPU, what other processes do should not count.
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
