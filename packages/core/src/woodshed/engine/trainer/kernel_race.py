"""Which kernel is faster along the tree on this GPU: both compute the attention of a real pack, and are timed.

Gathering the keys of each path costs memory traffic, which is little where a path has many queries of its own, as in
most groups; a block mask has no such cost, and computes more. Which one wins depends on the trees, so the first batch
of a run decides.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from woodshed.engine.trainer.attention.tree import Kernel, TreePlan, tree_attention
from woodshed.engine.trainer.forward import ForwardMode
from woodshed.engine.trainer.forward_mode import CANNOT_RUN, first_line

_log = logging.getLogger("woodshed.trainer")

_ROUNDS = 3
_KERNELS: dict[ForwardMode, Kernel] = {"tree": "paths", "flex": "flex"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """The attention heads of a model's layer."""

    queries: int
    keys: int
    size: int

    @classmethod
    def of(cls, config: Any) -> Heads:
        """Return the heads that a model's configuration names."""
        queries = config.num_attention_heads
        return cls(
            queries=queries,
            keys=getattr(config, "num_key_value_heads", None) or queries,
            size=getattr(config, "head_dim", None) or config.hidden_size // queries,
        )


def faster_mode(plan: TreePlan, heads: Heads, dtype: torch.dtype) -> ForwardMode:
    """Return the mode whose kernel takes less time for a layer of this plan, forward and backward, and log the times.

    A kernel that does not run loses. Each is run once before it is timed, because FlexAttention is compiled then.
    """
    seconds: dict[ForwardMode, float] = {}
    for mode, kernel in _KERNELS.items():
        try:
            seconds[mode] = _seconds(replace(plan, kernel=kernel), heads, dtype)
        except CANNOT_RUN as error:
            seconds[mode] = float("inf")
            _log.info("attention along the tree: the mode %r cannot be timed (%s)", mode, first_line(error))
    faster = min(seconds, key=lambda mode: seconds[mode])
    times = ", ".join(f"{mode!r} takes {1e3 * took:.2f} ms" for mode, took in seconds.items())
    _log.info("attention along the tree, a layer of %d positions: %s; %r is used", len(plan.below_N), times, faster)
    return faster


def _seconds(plan: TreePlan, heads: Heads, dtype: torch.dtype) -> float:
    draw = torch.Generator(plan.device).manual_seed(0)
    count = len(plan.below_N)
    query, key, value = (
        torch.randn(count, h, heads.size, generator=draw, device=plan.device, dtype=dtype).requires_grad_()
        for h in (heads.queries, heads.keys, heads.keys)
    )
    times = []
    with torch.enable_grad():
        for _ in range(1 + _ROUNDS):
            _synchronize(plan.device)
            began = time.perf_counter()
            out = tree_attention(query, key, value, plan, heads.size**-0.5)
            torch.autograd.grad(out, (query, key, value), out.detach())
            _synchronize(plan.device)
            times.append(time.perf_counter() - began)
    return min(times[1:])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
