"""Matrix products in fp32 on a CPU, by the faster of the two libraries that torch brings.

`torch.mm` calls MKL; torch's compiler calls oneDNN, whose kernels are faster for the shapes of a decoder layer
(`bench/products.py` prints both). Both compute in fp32.

Shapes: N rows, D input features, F output features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_by_onednn: Any = None
if torch.backends.mkldnn.is_available():
    _by_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def linear(x_ND: Tensor, weight_FD: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b (N x F), without a gradient; x and W may be views such as a transposed matrix."""
    if _by_onednn is None or x_ND.device.type != "cpu" or x_ND.dtype != torch.float32:
        return functional.linear(x_ND, weight_FD, bias_F)
    out_NF: Tensor = _by_onednn(x_ND, weight_FD, bias_F, "none", [], "")
    return out_NF
