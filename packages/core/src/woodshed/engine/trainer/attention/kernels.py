"""The small functions of a decoder layer with frozen weights, each with a backward pass that stores and moves less.

Apart from its matrix products, a step on a CPU spends its time on memory traffic. So what is cheap to compute again is
not stored for the backward pass.

Shapes: N tokens, D input features, F output features, S LoRA rank, H attention heads, E head size. `to_x` is the
gradient of the loss with respect to x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from woodshed.loss.products import linear


def lora_linear(
    x_ND: Tensor, weight_FD: Tensor, bias_F: Tensor | None, down_SD: Tensor, up_FS: Tensor, scale: float
) -> Tensor:
    """Return x Wᵀ + b + s (x Aᵀ) Bᵀ (N x F), with gradients to x, A and B; LoRA is arXiv:2106.09685.

    Args:
        x_ND: Input, in the precision of W.
        weight_FD: The frozen matrix W.
        bias_F: Its bias b, or None.
        down_SD: LoRA matrix A, in the precision of W or in fp32.
        up_FS: LoRA matrix B, likewise.
        scale: s, which is alpha / rank.
    """
    kernel = _LoraLinear if weight_FD.dtype == torch.float32 else _HalfLoraLinear
    out_NF: Tensor = kernel.apply(x_ND, weight_FD, bias_F, down_SD, up_FS, scale)
    return out_NF


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return x / sqrt(mean x² + ε) · weight over the last dimension, gradient to x: RMSNorm, arXiv:1910.07467."""
    out: Tensor = _RmsNorm.apply(x, weight, epsilon)
    return out


def rotary(x_NHE: Tensor, cos_NE: Tensor, sin_NE: Tensor) -> Tensor:
    """Return each head with its two halves rotated by the position's angles (rotary embedding, arXiv:2104.09864)."""
    out_NHE: Tensor = _Rotary.apply(x_NHE, cos_NE, sin_NE)
    return out_NHE


def gated_silu(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    """Return silu(gate) · up (SwiGLU, arXiv:2002.05202), storing only the two inputs for the backward pass."""
    out_NF: Tensor = _GatedSilu.apply(gate_NF, up_NF)
    return out_NF


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_FD: Tensor, bias_F: Tensor | None, down_SD: Tensor, up_FS: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x_ND, weight_FD, down_SD, up_FS)
        ctx.scale = scale
        # One product with N rows instead of three: for many tokens, adding s B A to W first costs almost nothing.
        return linear(x_ND, torch.addmm(weight_FD, up_FS, down_SD, alpha=scale), bias_F)

    @staticmethod
    def backward(ctx: Any, to_out_NF: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_FD, down_SD, up_FS = ctx.saved_tensors
        # These thin products are several times faster with the narrow factor first and stored in rows.
        to_low_SN = (up_FS.t().contiguous() @ to_out_NF.t()).mul_(ctx.scale)
        to_up_FS = linear(down_SD @ x_ND.t(), to_out_NF.t()).mul_(ctx.scale).t()
        to_down_SD = linear(to_low_SN, x_ND.t())
        to_x_ND = None
        if ctx.needs_input_grad[0]:
            to_x_ND = linear(to_out_NF, torch.addmm(weight_FD, up_FS, down_SD, alpha=ctx.scale).t())
        return to_x_ND, None, None, to_down_SD, to_up_FS, None


class _HalfLoraLinear(torch.autograd.Function):
    """The same in half precision, where rounding W + s B A would lose the small changes of a LoRA early in training."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_FD: Tensor, bias_F: Tensor | None, down_SD: Tensor, up_FS: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x_ND, weight_FD, down_SD, up_FS)
        ctx.scale = scale
        down_SD, up_FS = down_SD.to(x_ND.dtype), up_FS.to(x_ND.dtype)
        out_NF = functional.linear(x_ND, weight_FD, bias_F)
        return out_NF.addmm_(x_ND @ down_SD.t(), up_FS.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, to_out_NF: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_FD, down_SD, up_FS = ctx.saved_tensors
        half_down_SD, half_up_FS = down_SD.to(x_ND.dtype), up_FS.to(x_ND.dtype)
        to_low_NS = (to_out_NF @ half_up_FS).mul_(ctx.scale)
        low_NS = (x_ND @ half_down_SD.t()).mul_(ctx.scale)
        to_up_FS = (to_out_NF.t() @ low_NS).to(up_FS.dtype)
        to_down_SD = (to_low_NS.t() @ x_ND).to(down_SD.dtype)
        to_x_ND = (to_out_NF @ weight_FD).addmm_(to_low_NS, half_down_SD) if ctx.needs_input_grad[0] else None
        return to_x_ND, None, None, to_down_SD, to_up_FS, None


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, to_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        scaled = to_out * weight
        along = torch.linalg.vecdot(scaled, x).unsqueeze(-1).mul_(inverse.pow(3)).div_(x.shape[-1])
        return scaled.mul_(inverse).addcmul_(x, along, value=-1), None, None


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NHE: Tensor, cos_NE: Tensor, sin_NE: Tensor) -> Tensor:
        ctx.save_for_backward(cos_NE, sin_NE)
        return _rotated(x_NHE, cos_NE, sin_NE)

    @staticmethod
    def backward(ctx: Any, to_out_NHE: Tensor) -> tuple[Tensor | None, ...]:
        cos_NE, sin_NE = ctx.saved_tensors
        return _rotated(to_out_NHE, cos_NE, -sin_NE), None, None


def _rotated(x_NHE: Tensor, cos_NE: Tensor, sin_NE: Tensor) -> Tensor:
    half = x_NHE.shape[-1] // 2
    out_NHE = x_NHE * cos_NE[:, None]
    out_NHE[..., :half].addcmul_(x_NHE[..., half:], sin_NE[:, None, :half], value=-1)
    out_NHE[..., half:].addcmul_(x_NHE[..., :half], sin_NE[:, None, half:])
    return out_NHE


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_NF: Tensor, up_NF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_NF, up_NF)
        return functional.silu(gate_NF).mul_(up_NF)

    @staticmethod
    def backward(ctx: Any, to_out_NF: Tensor) -> tuple[Tensor, Tensor]:
        gate_NF, up_NF = ctx.saved_tensors
        to_gate_NF = torch.ops.aten.silu_backward(to_out_NF * up_NF, gate_NF)
        return to_gate_NF, functional.silu(gate_NF).mul_(to_out_NF)
