"""Which kernel is faster along the tree on this GPU: each computes the attention of a real pack, and is timed.

Gathering the keys of each path costs memory traffic, which is little where a path has many queries of its own, as in
most groups; a block mask has no such cost, and computes more. Which one wins depends on the trees, so the first batch
of a run decides. Newer flash attentions (FA3, FA4) that torch has a registry for are tried where they are installed.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import (
    activate_flash_attention_impl,
    list_flash_attention_impls,
    restore_flash_attention_impl,
)

from woodshed.engine.trainer.attention.tree import Kernel, TreePlan, tree_attention
from woodshed.engine.trainer.forward import ForwardMode
from woodshed.engine.trainer.forward_mode import CANNOT_RUN, first_line

_log = logging.getLogger("woodshed.trainer")

_ROUNDS = 3
_KERNELS: dict[ForwardMode, Kernel] = {"tree": "paths", "flex": "flex"}
_ALLOWED = 3e-2
"""How far, as a share, results of another flash attention may be from torch's own: roundings of half precision."""


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


class _Run(NamedTuple):
    """A kernel's time, and what it computed: attention and the gradients to queries, keys and values."""

    seconds: float
    results: tuple[Tensor, ...]


def faster_mode(plan: TreePlan, heads: Heads, dtype: torch.dtype) -> ForwardMode:
    """Return the mode whose kernel takes less time for a layer of this plan, forward and backward, and log the times.

    A kernel that does not run loses, as does a flash attention that is not as right as torch's own. Each is run once
    before it is timed, because FlexAttention is compiled then. If an installed flash attention wins, torch uses it in
    this process from now on.
    """
    runs: dict[str, _Run] = {}
    for mode, kernel in _KERNELS.items():
        try:
            runs[mode] = _run(replace(plan, kernel=kernel), heads, dtype)
        except CANNOT_RUN as error:
            _log.info("attention along the tree: the mode %r cannot be timed (%s)", mode, first_line(error))
    others = {f"tree by {name}": name for name in list_flash_attention_impls() if "tree" in runs}
    for title, name in others.items():
        run = _by(name, replace(plan, kernel=_KERNELS["tree"]), heads, dtype, runs["tree"])
        if isinstance(run, str):
            # torch names what it knows, installed or not.
            level = logging.INFO if run.startswith(ModuleNotFoundError.__name__) else logging.WARNING
            _log.log(level, "attention along the tree: %s is not used (%s)", name, run)
        else:
            runs[title] = run
    faster = min(runs, key=lambda title: runs[title].seconds, default="tree")
    times = ", ".join(f"{title!r} takes {1e3 * run.seconds:.2f} ms" for title, run in runs.items())
    _log.info("attention along the tree, a layer of %d positions: %s; %r is used", len(plan.below_N), times, faster)
    if faster in others:
        activate_flash_attention_impl(others[faster])
    return "flex" if faster == "flex" else "tree"


def _by(name: str, plan: TreePlan, heads: Heads, dtype: torch.dtype, usual: _Run) -> _Run | str:
    """Return what a flash attention of torch's registry makes of a plan, or why it is not to be used.

    torch's own is used again afterwards.
    """
    try:
        activate_flash_attention_impl(name)
        run = _run(plan, heads, dtype)
    except Exception as error:  # it is somebody else's, and compiles itself: whatever it raises, torch's own is there
        return first_line(error)
    finally:
        restore_flash_attention_impl(_raise_warn=False)
    off = max(float((a - b).float().norm() / b.float().norm()) for a, b in zip(run.results, usual.results, strict=True))
    return run if off <= _ALLOWED else f"its results are off by {off:.2g} of their size, {_ALLOWED:.2g} is allowed"


def _run(plan: TreePlan, heads: Heads, dtype: torch.dtype) -> _Run:
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
            gradients = torch.autograd.grad(out, (query, key, value), out.detach())
            _synchronize(plan.device)
            times.append(time.perf_counter() - began)
    return _Run(min(times[1:]), (out.detach(), *gradients))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
