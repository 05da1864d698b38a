"""Promises of flash attention on a CPU: large calls take the faster library's products where those are exact."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from woodshed.engine.trainer.attention import cpu_flash
from woodshed.engine.trainer.attention.cpu_flash import flash, flash_back, in_whole_blocks, onednn_is_better

PRODUCTS: Any = torch.backends.mkldnn.matmul
LARGE, SMALL = (2, 4, 512, 64), (1, 4, 40, 64)


@pytest.fixture(autouse=True)
def measured_anew() -> Iterator[None]:
    usual = PRODUCTS.fp32_precision
    onednn_is_better.cache_clear()
    yield
    onednn_is_better.cache_clear()
    assert PRODUCTS.fp32_precision == usual


def heads(shape: tuple[int, ...], count: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw) for _ in range(count)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", [LARGE, SMALL], ids=["large", "small"])
def test_attention_and_gradients_are_those_of_a_softmax_whichever_library_multiplies(
    shape: tuple[int, ...], causal: bool
) -> None:
    query, key, value, to_out = heads(shape, 4)
    out, log_sum = flash(query, key, value, causal=causal, mask=None, scale=0.1)
    found = (out, *flash_back(to_out, query, key, value, out, log_sum, causal=causal, mask=None, scale=0.1))
    wide = [x.double().requires_grad_() for x in (query, key, value)]
    hidden = torch.ones(shape[2], shape[2], dtype=torch.bool).triu(1) & causal
    scores = (wide[0] @ wide[1].mT * 0.1).masked_fill(hidden, -torch.inf)
    exact = scores.softmax(-1) @ wide[2]
    right = (exact, *torch.autograd.grad((exact * to_out.double()).sum(), wide))

    assert all((ours - theirs).norm() < 2e-6 * theirs.norm() for ours, theirs in zip(found, right, strict=True))
    assert (log_sum - scores.logsumexp(-1)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("queries", "keys", "expected"),
    [
        (191, 4096, None), (192, 255, None), (192, 383, None), (192, 384, (192, 384)), (255, 800, (192, 512)),
        (767, 900, (704, 896)), (768, 255, None), (768, 256, (768, 256)), (1023, 500, (768, 384)),
        (1024, 640, (1024, 512)), (2000, 1024, (1792, 1024)), (2000, 1300, (1792, 1280)),
    ],
)  # fmt: skip
def test_whole_blocks_have_few_shapes(queries: int, keys: int, expected: tuple[int, int] | None) -> None:
    assert in_whole_blocks(queries, keys) == expected
    if expected is not None:
        assert in_whole_blocks(*expected) == expected


@pytest.mark.parametrize(
    ("shape", "dtype", "better", "causal", "is_used"),
    [(LARGE, torch.float32, True, False, True), (LARGE, torch.float32, False, False, False),
     (SMALL, torch.float32, True, False, False), (LARGE, torch.bfloat16, True, False, False),
     (LARGE, torch.float32, True, True, False)],
    ids=["large", "not better", "small", "half precision", "causal"],
)  # fmt: skip
def test_only_whole_blocks_in_fp32_are_multiplied_by_onednn_and_only_where_it_is_better(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    better: bool,
    causal: bool,
    is_used: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    met: list[str] = []
    for name in ("_FLASH", "_FLASH_BACK"):
        monkeypatch.setattr(cpu_flash, name, lambda *_, **__: met.append(PRODUCTS.fp32_precision))
    monkeypatch.setattr(cpu_flash, "onednn_is_better", lambda: better)
    query, key, value = (x.to(dtype) for x in heads(shape))
    flash(query, key, value, causal=causal, mask=None, scale=1.0)
    flash_back(query, query, key, value, query, query, causal=causal, mask=None, scale=1.0)

    assert met == ["bf16" if is_used else PRODUCTS.fp32_precision] * 2


def test_what_a_call_raises_leaves_the_precision_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(cpu_flash, "_FLASH", fails)
    monkeypatch.setattr(cpu_flash, "onednn_is_better", lambda: True)
    with pytest.raises(RuntimeError, match="no memory"):
        flash(*heads(LARGE), causal=False, mask=None, scale=1.0)


@pytest.mark.parametrize(
    ("by_onednn_s", "rounds", "better", "told"),
    [(0.005, False, True, "10.0 ms by MKL, 5.0 ms by oneDNN"), (0.0095, False, False, "10.0 ms by MKL, 9.5 ms by"),
     (0.001, True, False, "products by MKL: with oneDNN's it is off by 0.00")],
    ids=["faster", "hardly faster", "rounds"],
)  # fmt: skip
def test_onednn_is_better_where_it_is_faster_and_as_exact_which_is_measured_once(
    by_onednn_s: float,
    rounds: bool,
    better: bool,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs: list[str] = []

    def timed(shape_heads: Tensor, products: Any) -> tuple[float, Tensor]:
        with products:
            runs.append(PRODUCTS.fp32_precision)
        out = shape_heads[0]
        if runs[-1] != "bf16":
            return 0.010, out
        # What a CPU with matrix units makes of it.
        return by_onednn_s, out.bfloat16().float() if rounds else out

    monkeypatch.setattr(cpu_flash, "_timed", timed)
    with caplog.at_level(logging.INFO, "woodshed.trainer"):
        assert (onednn_is_better(), onednn_is_better()) == (better, better)

    assert len(runs) == 8
    assert told in caplog.text
