"""torch's flash attention on a CPU (arXiv:2205.14135), with its products by the faster of torch's two libraries.

It calls MKL for them, which on some processors reaches half of what oneDNN does. torch has no switch between the two
but one for oneDNN's precision: with `fp32_precision = "bf16"` oneDNN may round to bfloat16, and does so on processors
with matrix units; on others it computes in fp32. So once in a process it is measured here whether attention is the same
in that mode and faster; only then are large calls without a mask made in it. oneDNN compiles and keeps a kernel for
each shape of a product, so a call is cut to whole blocks first (`in_whole_blocks`), of which there are few shapes; the
strips that are left over are calls of their own, by MKL. `bench/attention.py` prints what the sizes were chosen by.

Shapes: B sequences, H query heads, K key heads, Q queries, N keys, E head size.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger("woodshed.trainer")

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACK = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_MIN_QUERIES, _MANY = 192, 768
"""torch multiplies 64 queries at a time from the first number on, 256 from the second; each by at most 512 keys."""
_KEYS, _REST = 512, {64: (384,), 256: (384, 256)}
"""By how many queries are multiplied at a time: with how many keys, after blocks of 512, oneDNN is still faster."""
_MEASURED = (1, 4, _MANY, 64)
_ROUNDS, _MIN_SPEEDUP, _EXACT = 3, 1.1, 1e-5


def in_whole_blocks(queries: int, keys: int) -> tuple[int, int] | None:
    """Return how many of a call's queries and keys are whole blocks; None where oneDNN would not gain by them."""
    if queries < _MIN_QUERIES:
        return None
    rows = 256 if queries >= _MANY else 64
    rest = next((width for width in _REST[rows] if width <= keys % _KEYS), 0)
    whole = keys - keys % _KEYS + rest
    return (queries - queries % rows, whole) if whole else None


def flash(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, mask: Tensor | None, scale: float) -> Any:
    """Return attention (B x H x Q x E) and the log-sums of the scores (B x H x Q)."""
    with _products(query, key, causal or mask is not None):
        return _FLASH(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)


def flash_back(
    to_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, log_sum: Tensor, *, causal: bool,
    mask: Tensor | None, scale: float,
) -> Any:  # fmt: skip
    """Return the gradients to queries, keys and values."""
    with _products(query, key, causal or mask is not None):
        return _FLASH_BACK(to_out, query, key, value, out, log_sum, 0.0, causal, attn_mask=mask, scale=scale)


def _products(query: Tensor, key: Tensor, is_masked: bool) -> AbstractContextManager[None]:
    sizes = query.shape[2], key.shape[2]
    is_whole = not is_masked and in_whole_blocks(*sizes) == sizes
    return _by_onednn() if is_whole and query.dtype == torch.float32 and onednn_is_better() else nullcontext()


@contextmanager
def _by_onednn() -> Iterator[None]:
    products: Any = torch.backends.mkldnn.matmul
    usual = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = usual


@cache
def onednn_is_better() -> bool:
    """Return whether attention by oneDNN's products is the same in fp32 on this CPU, and faster; log both times."""
    if not hasattr(torch.backends.mkldnn, "matmul") or not torch.backends.mkldnn.is_available():
        return False
    heads = torch.randn(3, *_MEASURED, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine several threads would wait for each other, which counts as CPU time
    try:
        # In turns, so that other work on the machine affects both.
        rounds = [(_timed(heads, nullcontext()), _timed(heads, _by_onednn())) for _ in range(1 + _ROUNDS)][1:]
    finally:
        torch.set_num_threads(threads)
    (usual, exact), (ours, found) = (min(runs, key=lambda run: run[0]) for runs in zip(*rounds, strict=True))
    if (off := float((found - exact).norm() / exact.norm())) > _EXACT:
        _log.info("attention's products by MKL: with oneDNN's it is off by %.2g of its size", off)
        return False
    _log.info("attention's products: %.1f ms by MKL, %.1f ms by oneDNN", 1e3 * usual, 1e3 * ours)
    return usual >= _MIN_SPEEDUP * ours


def _timed(heads: Tensor, products: AbstractContextManager[None]) -> tuple[float, Tensor]:
    """Return the seconds that attention takes, and what it is."""
    began = time.process_time()
    with products:
        out, _ = _FLASH(*heads, 0.0, False)
    return time.process_time() - began, out
