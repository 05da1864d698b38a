"""Promises of matrix products: what torch's own say, for views, biases and thin factors, in any precision."""

from __future__ import annotations

import pytest
import torch

from woodshed.loss import products
from woodshed.loss.products import linear


@pytest.mark.parametrize("rows", [1, 8, 300])
@pytest.mark.parametrize(("width", "out"), [(8, 64), (64, 8), (96, 200)])
@pytest.mark.parametrize("transposed", ["neither", "x", "weight", "both"])
def test_product_is_torchs_own(rows: int, width: int, out: int, transposed: str) -> None:
    draw = torch.Generator().manual_seed(0)

    def made(first: int, second: int, *, is_view: bool) -> torch.Tensor:
        return torch.randn(second, first, generator=draw).t() if is_view else torch.randn(first, second, generator=draw)

    x = made(rows, width, is_view=transposed in ("x", "both"))
    weight = made(out, width, is_view=transposed in ("weight", "both"))
    bias = torch.randn(out, generator=draw)
    exact = x.double() @ weight.double().t()

    assert torch.allclose(linear(x, weight).double(), exact, atol=1e-4, rtol=1e-5)
    assert torch.allclose(linear(x, weight, bias).double(), exact + bias, atol=1e-4, rtol=1e-5)


def test_other_precisions_and_builds_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(5, 8), torch.randn(3, 8)
    half = linear(x.bfloat16(), weight.bfloat16())
    monkeypatch.setattr(products, "_by_onednn", None)

    assert half.dtype == torch.bfloat16
    assert torch.equal(linear(x, weight), torch.nn.functional.linear(x, weight))
