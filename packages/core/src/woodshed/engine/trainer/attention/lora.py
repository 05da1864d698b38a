"""The linear layers of a decoder layer: frozen matrices, each with or without a LoRA (arXiv:2106.09685).

In fp32 on a CPU one matrix at a time: W + s B A, then a single product. In half precision the sum would lose the small
changes of a LoRA early in training, so its thin products stay apart; what is the same for several matrices with one
input (q, k and v; gate and up) is done once, and PEFT's fp32 LoRA is rounded once a forward pass for all layers.

Shapes: N tokens, D input features, F output features, S rank, R the ranks of a group together. `to_x` is the gradient
of the loss with respect to x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional

from woodshed.loss.products import linear

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Linear layers of a decoder layer that have one input."""
GROUPS_OF_FEW_QUERIES = (("q_proj",), ("k_proj", "v_proj"), *GROUPS[1:])
"""The same where fewer positions are queries than keys, as in the last layer."""
_HALF = (torch.float16, torch.bfloat16)


class HalfLora(NamedTuple):
    """The LoRAs of a group of matrices, in half precision; ready for one layer's forward pass."""

    down_RD: Tensor
    """Their matrices A, one below the other."""
    ups_FS: tuple[Tensor | None, ...]
    """s B of each matrix; None where it has no LoRA."""


HalfLoras = dict[tuple[str, ...], HalfLora]
"""A layer's groups → their LoRAs."""


def linears(modules: Sequence[Any], x_ND: Tensor, lora: HalfLora | None = None) -> tuple[Tensor, ...]:
    """Return the output (N x F) of each linear layer for one input.

    Args:
        modules: Frozen matrices, with or without a LoRA; others are called as they are.
        x_ND: Their input.
        lora: What `half_loras` made of the group; None where it made nothing.
    """
    if lora is None:
        return tuple(_one(module, x_ND) for module in modules)
    bases = [_base(module) for module in modules]
    weights, biases = tuple(base.weight for base in bases), tuple(base.bias for base in bases)
    outs: tuple[Tensor, ...] = _HalfLinears.apply(x_ND, weights, biases, lora.down_RD, *lora.ups_FS)
    return outs


def _one(module: Any, x_ND: Tensor) -> Tensor:
    if not is_plain_lora(module) or module.base_layer.weight.dtype != torch.float32:
        out_NF: Tensor = module(x_ND)
        return out_NF
    (name,) = module.active_adapters
    base, down, up = module.base_layer, module.lora_A[name], module.lora_B[name]
    return lora_linear(x_ND, base.weight, base.bias, down.weight, up.weight, module.scaling[name])


def half_loras(layers: Sequence[Any], groups: Sequence[Sequence[tuple[str, ...]]]) -> list[HalfLoras]:
    """Return each layer's LoRAs in the precision of its matrices, with gradients to them; empty where there are none.

    A group is left out if a matrix of it isn't in half precision, or is more than frozen numbers with one LoRA.

    Args:
        layers: The decoder's layers.
        groups: The groups of each of them.
    """
    found: list[tuple[int, tuple[str, ...], list[_Part | None]]] = []
    for number, (layer, of_layer) in enumerate(zip(layers, groups, strict=True)):
        for names in of_layer:
            modules = [module_of(layer, name) for name in names]
            if all(map(_is_half, modules)) and any(map(is_plain_lora, modules)):
                found.append((number, names, [_part(module) for module in modules]))
    loras: list[HalfLoras] = [{} for _ in layers]
    if not found:
        return loras
    parts = [[part for part in group if part is not None] for _, _, group in found]
    every = [part for of_group in parts for part in of_group]
    ranks = tuple(tuple(len(part.down_SD) for part in of_group) for of_group in parts)
    dtype = _base(module_of(layers[found[0][0]], found[0][1][0])).weight.dtype
    made = _Halves.apply(
        dtype, ranks, tuple(p.scale for p in every), *(p.down_SD for p in every), *(p.up_FS for p in every)
    )
    downs, ups = made[: len(found)], iter(made[len(found) :])
    for (number, names, group), down_RD in zip(found, downs, strict=True):
        loras[number][names] = HalfLora(down_RD, tuple(None if part is None else next(ups) for part in group))
    return loras


def module_of(layer: Any, name: str) -> Any:
    """Return a layer's linear layer of this name."""
    room = layer.mlp if name in ("gate_proj", "up_proj", "down_proj") else layer.self_attn
    return getattr(room, name, None)


class _Part(NamedTuple):
    """One matrix's LoRA."""

    down_SD: Tensor
    up_FS: Tensor
    scale: float


def _part(module: Any) -> _Part | None:
    if not is_plain_lora(module):
        return None
    (name,) = module.active_adapters
    return _Part(module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name]))


def _base(module: Any) -> Any:
    return module.base_layer if is_plain_lora(module) else module


def _is_half(module: Any) -> bool:
    base = _base(module)
    return type(base) is nn.Linear and base.weight.dtype in _HALF and not base.weight.requires_grad


def is_plain_lora(module: Any) -> bool:
    """Whether a module is a frozen matrix with one LoRA and nothing else (no dropout, DoRA, …)."""
    if type(module) is not PeftLinear or module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return False
    (name,) = module.active_adapters
    if (
        name not in module.lora_A
        or name in getattr(module, "lora_variant", {})
        or type(module.base_layer) is not nn.Linear
    ):
        return False
    base, up = module.base_layer, module.lora_B[name]
    has_no_extras = isinstance(module.lora_dropout[name], nn.Identity) and up.bias is None
    # PEFT holds a LoRA in fp32 where the matrix is in half precision.
    return has_no_extras and not base.weight.requires_grad and up.weight.dtype in (base.weight.dtype, torch.float32)


def lora_linear(
    x_ND: Tensor, weight_FD: Tensor, bias_F: Tensor | None, down_SD: Tensor, up_FS: Tensor, scale: float
) -> Tensor:
    """Return x Wᵀ + b + s (x Aᵀ) Bᵀ (N x F) in fp32, with gradients to x, A and B.

    Args:
        x_ND: Input.
        weight_FD: The frozen matrix W.
        bias_F: Its bias b, or None.
        down_SD: LoRA matrix A.
        up_FS: LoRA matrix B.
        scale: s, which is alpha / rank.
    """
    out_NF: Tensor = _LoraLinear.apply(x_ND, weight_FD, bias_F, down_SD, up_FS, scale)
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


class _Halves(torch.autograd.Function):
    """All LoRAs in half precision: a few operators for a whole model instead of some for each matrix.

    Their gradients are added up in half precision within a forward pass, as a product's are, and in fp32 over passes.
    """

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, ranks: tuple[tuple[int, ...], ...], scales: tuple[float, ...], *given: Tensor
    ) -> tuple[Tensor, ...]:
        downs, ups = given[: len(scales)], given[len(scales) :]
        ctx.ranks, ctx.scales, ctx.dtypes = ranks, scales, [x.dtype for x in given]
        stacked, copies, first = [], [], 0
        for of_group in ranks:
            down = downs[first]
            stacked.append(down.new_empty(sum(of_group), down.shape[1], dtype=dtype))
            copies += stacked[-1].split(of_group)
            first += len(of_group)
        scaled = torch._foreach_mul(list(ups), list(scales))
        halves = [torch.empty_like(up, dtype=dtype) for up in ups]
        torch._foreach_copy_([*copies, *halves], [*downs, *scaled])
        return (*stacked, *halves)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        to_stacked, to_halves = given[: len(ctx.ranks)], given[len(ctx.ranks) :]
        to_downs = [part for to, of_group in zip(to_stacked, ctx.ranks, strict=True) for part in to.split(of_group)]
        found = [*to_downs, *to_halves]
        wide = [torch.empty(x.shape, dtype=dtype, device=x.device) for x, dtype in zip(found, ctx.dtypes, strict=True)]
        torch._foreach_copy_(wide, found)
        torch._foreach_mul_(wide[len(to_downs) :], list(ctx.scales))
        return None, None, None, *wide


class _HalfLinears(torch.autograd.Function):
    """x Wᵀ + b + (x Aᵀ) (s B)ᵀ of several matrices, in half precision."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weights: tuple[Tensor, ...], biases: tuple[Tensor | None, ...], down_RD: Tensor,
        *ups_FS: Tensor | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        low_NR = x_ND @ down_RD.t()
        ctx.save_for_backward(x_ND, low_NR, down_RD, *weights, *ups_FS)
        outs = []
        for weight_FD, bias_F, up_FS, part in zip(weights, biases, ups_FS, _parts(ups_FS), strict=True):
            out_NF = functional.linear(x_ND, weight_FD, bias_F)
            outs.append(out_NF if up_FS is None else out_NF.addmm_(low_NR[:, part], up_FS.t()))
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *to_outs: Tensor) -> tuple[Any, ...]:
        x_ND, low_NR, down_RD, *rest = ctx.saved_tensors
        weights, ups_FS = rest[: len(to_outs)], rest[len(to_outs) :]
        to_low_NR, to_ups = torch.empty_like(low_NR), []
        for to_out_NF, up_FS, part in zip(to_outs, ups_FS, _parts(ups_FS), strict=True):
            if up_FS is not None:
                torch.mm(to_out_NF, up_FS, out=to_low_NR[:, part])
            to_ups.append(None if up_FS is None else to_out_NF.t() @ low_NR[:, part])
        to_x_ND = None
        if ctx.needs_input_grad[0]:
            to_x_ND = to_outs[0] @ weights[0]
            for to_out_NF, weight_FD in zip(to_outs[1:], weights[1:], strict=True):
                to_x_ND.addmm_(to_out_NF, weight_FD)
            to_x_ND.addmm_(to_low_NR, down_RD)
        return to_x_ND, None, None, to_low_NR.t() @ x_ND, *to_ups


def _parts(ups_FS: Sequence[Tensor | None]) -> list[slice]:
    """Return which of a group's ranks belong to each matrix."""
    parts, start = [], 0
    for up_FS in ups_FS:
        stop = start + (0 if up_FS is None else up_FS.shape[1])
        parts.append(slice(start, stop))
        start = stop
    return parts
