"""The functions of a decoder layer between its matrix products, each with a backward pass that stores and moves less.

Apart from its products a step spends its time on memory traffic. So what is cheap to compute again is not stored for
the backward pass. On a GPU each of them is several small kernels, one for each operator; `compiled` makes one of them.

Shapes: N tokens, F width of the MLP, H attention heads, E head size. `to_x` is the gradient of the loss with respect to
x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def _rotated(x_NHE: Tensor, cos_NE: Tensor, sin_NE: Tensor) -> Tensor:
    half = x_NHE.shape[-1] // 2
    out_NHE = x_NHE * cos_NE[:, None]
    out_NHE[..., :half].addcmul_(x_NHE[..., half:], sin_NE[:, None, :half], value=-1)
    out_NHE[..., half:].addcmul_(x_NHE[..., :half], sin_NE[:, None, half:])
    return out_NHE


def _rotated_back(x_NHE: Tensor, cos_NE: Tensor, sin_NE: Tensor) -> Tensor:
    half = x_NHE.shape[-1] // 2
    out_NHE = x_NHE * cos_NE[:, None]
    out_NHE[..., :half].addcmul_(x_NHE[..., half:], sin_NE[:, None, :half])
    out_NHE[..., half:].addcmul_(x_NHE[..., :half], sin_NE[:, None, half:], value=-1)
    return out_NHE


def _gated(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    return functional.silu(gate_NF).mul_(up_NF)


def _gated_back(to_out_NF: Tensor, gate_NF: Tensor, up_NF: Tensor) -> tuple[Tensor, Tensor]:
    to_gate_NF = torch.ops.aten.silu_backward(to_out_NF * up_NF, gate_NF)
    return to_gate_NF, functional.silu(gate_NF).mul_(to_out_NF)


@dataclass(frozen=True, kw_only=True, slots=True)
class ElementWise:
    """How rotation and gate are computed, forward and backward."""

    name: str
    rotated: Callable[[Tensor, Tensor, Tensor], Tensor] = _rotated
    rotated_back: Callable[[Tensor, Tensor, Tensor], Tensor] = _rotated_back
    gated: Callable[[Tensor, Tensor], Tensor] = _gated
    gated_back: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = _gated_back


PLAIN = ElementWise(name="plain")
"""One operator after the other."""


@cache
def compiled() -> ElementWise:
    """Return each of them compiled into one kernel, for any number of positions.

    They are compiled when they are first called, and not again for other lengths. What they compute is rounded once, at
    the end, so that in half precision they are nearer to fp32 than `PLAIN`.
    """
    return ElementWise(
        name="compile",
        rotated=_compiled(_rotated),
        rotated_back=_compiled(_rotated_back),
        gated=_compiled(_gated),
        gated_back=_compiled(_gated_back),
    )


def _compiled(body: Callable[..., Any]) -> Callable[..., Any]:
    run = torch.compile(body)

    def of_any_length(*tensors: Tensor) -> Any:
        # Gradients are the business of those who call; whether a tensor needs one would be a reason to compile again.
        given = [tensor.detach() for tensor in tensors]
        for tensor in given:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return run(*given)

    return of_any_length


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return x / sqrt(mean x² + ε) · weight over the last dimension, gradient to x: RMSNorm, arXiv:1910.07467."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        out: Tensor = _RmsNorm.apply(x, weight, epsilon)
        return out
    # One kernel of torch's on a GPU, which rounds once.
    return functional.rms_norm(x, x.shape[-1:], weight, epsilon)


def rotary(x_NHE: Tensor, cos_NE: Tensor, sin_NE: Tensor, *, by: ElementWise = PLAIN) -> Tensor:
    """Return each head with its two halves rotated by the position's angles (rotary embedding, arXiv:2104.09864)."""
    out_NHE: Tensor = _Rotary.apply(x_NHE, cos_NE, sin_NE, by)
    return out_NHE


def gated_silu(gate_NF: Tensor, up_NF: Tensor, *, by: ElementWise = PLAIN) -> Tensor:
    """Return silu(gate) · up (SwiGLU, arXiv:2002.05202), storing only the two inputs for the backward pass."""
    out_NF: Tensor = _GatedSilu.apply(gate_NF, up_NF, by)
    return out_NF


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
    def forward(ctx: Any, x_NHE: Tensor, cos_NE: Tensor, sin_NE: Tensor, by: ElementWise) -> Tensor:
        ctx.save_for_backward(cos_NE, sin_NE)
        ctx.by = by
        return by.rotated(x_NHE, cos_NE, sin_NE)

    @staticmethod
    def backward(ctx: Any, to_out_NHE: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.by.rotated_back(to_out_NHE, *ctx.saved_tensors), None, None, None


class _GatedSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_NF: Tensor, up_NF: Tensor, by: ElementWise) -> Tensor:
        ctx.save_for_backward(gate_NF, up_NF)
        ctx.by = by
        return by.gated(gate_NF, up_NF)

    @staticmethod
    def backward(ctx: Any, to_out_NF: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.by.gated_back(to_out_NF, *ctx.saved_tensors), None
