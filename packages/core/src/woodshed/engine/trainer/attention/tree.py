"""Attention along the paths of a trie whose positions lie in preorder, as one run of tokens.

All that descends from a segment lies behind it in one run. So a segment is seen by itself, causally, and by that whole
run at once, with no mask at all. On a CPU these are flash-attention calls on plain views (`tiles` plans them), whose
results are joined by their log-sums; no key is copied for a sibling and nothing is padded. On a GPU the same rule,
k <= q < below(k), is a block mask of FlexAttention.

Shapes: N positions, Q of them that ask, H heads, K key heads, E width of a head.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from woodshed.engine.trainer.attention.attention_plan import AttentionTile, plan_attention
from woodshed.tokens.packing import Segment

Tiles = tuple[tuple[AttentionTile, Tensor | None], ...]
"""Each call with what is added to its scores."""


@dataclass(frozen=True, kw_only=True)
class TreePlan:
    """Which positions of a pack see which."""

    segments: tuple[Segment, ...]
    queries: tuple[int, ...] | None = None
    """The positions that ask, ascending; None for all. The last layer needs only those that predict a token."""
    device: torch.device

    def only(self, queries: Sequence[int]) -> TreePlan:
        """Return the plan in which only some positions ask."""
        return TreePlan(segments=self.segments, queries=tuple(queries), device=self.device)

    @cached_property
    def tiles(self) -> tuple[AttentionTile, ...]:
        """The flash-attention calls of a CPU, in an order in which all that ask are first seen by a root."""
        if self.queries is None:
            return plan_attention(self.segments, lambda at: at)
        queries = self.queries
        return plan_attention(tuple(_cut(self.segments, queries)), lambda at: bisect_left(queries, at))

    @cached_property
    def masks(self) -> tuple[Tensor | None, ...]:
        """What is added to the scores of each of `tiles`; None where nothing is."""
        return tuple(self._added(tile) if tile.mask == "tree" else None for tile in self.tiles)

    def _added(self, tile: AttentionTile) -> Tensor:
        at_Q, key_N = self.query_positions_Q[tile.queries, None], torch.arange(tile.keys.start, tile.keys.stop)
        sees_QN = (key_N <= at_Q) & (at_Q < self.below_N[tile.keys])
        return torch.zeros(sees_QN.shape).masked_fill_(~sees_QN, -torch.inf)

    @cached_property
    def below_N(self) -> Tensor:
        """For each position, the end of what may see it."""
        sizes = torch.tensor([s.stop - s.start for s in self.segments])
        return torch.tensor([s.below for s in self.segments]).repeat_interleave(sizes).to(self.device)

    @cached_property
    def query_positions_Q(self) -> Tensor:
        """The positions that ask, as a tensor."""
        if self.queries is None:
            return torch.arange(len(self.below_N), device=self.device)
        return torch.tensor(self.queries, dtype=torch.long, device=self.device)

    @cached_property
    def mask_QN(self) -> Tensor:
        """True where a query (row) may look (column)."""
        at_N = torch.arange(len(self.below_N), device=self.device)
        return (self.query_positions_Q[:, None] >= at_N[None]) & (self.query_positions_Q[:, None] < self.below_N[None])

    @cached_property
    def block_mask(self) -> Any:
        """The same for FlexAttention."""
        from torch.nn.attention.flex_attention import create_block_mask

        below_N, query_positions_Q = self.below_N, self.query_positions_Q

        def may_look(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query_positions_Q[query]) & (query_positions_Q[query] < below_N[key])

        return create_block_mask(may_look, None, None, len(query_positions_Q), len(below_N), device=str(self.device))


def _cut(segments: Sequence[Segment], queries: Sequence[int]) -> Iterator[Segment]:
    """Cut segments where those that ask begin or end, so that all or none of a segment's positions ask."""
    for s in segments:
        mine = set(queries[bisect_left(queries, s.start) : bisect_left(queries, s.stop)])
        edges = {at for place in mine for at in (place, place + 1) if (at in mine) != (at - 1 in mine)}
        for start, stop in pairwise(sorted({s.start, s.stop, *edges})):
            yield Segment(start=start, stop=stop, below=s.below)


def tree_attention(query_QHE: Tensor, key_NKE: Tensor, value_NKE: Tensor, plan: TreePlan, scale: float) -> Tensor:
    """Return the attention of each that asks over its own path, as Q x H x E, with gradients to all three."""
    if query_QHE.device.type == "cpu":
        tiles = tuple(zip(plan.tiles, plan.masks, strict=True))
        # Flash attention of a CPU is no faster in half precision, and parts joined in it would be rounded each time.
        out: Tensor = _CpuTree.apply(query_QHE.float(), key_NKE.float(), value_NKE.float(), tiles, scale)
        return out.to(query_QHE.dtype)
    query, key, value = (x.transpose(0, 1)[None] for x in (query_QHE, key_NKE, value_NKE))
    return _flex(query, key, value, plan.block_mask, scale)[0].transpose(0, 1)


def _flex(query: Tensor, key: Tensor, value: Tensor, block_mask: Any, scale: float) -> Tensor:
    """Return the same by FlexAttention, for batches of heads; compiled where it has kernels."""
    from torch.nn.attention.flex_attention import flex_attention

    global _compiled_flex
    if query.device.type == "cuda" and _compiled_flex is None:
        _compiled_flex = torch.compile(flex_attention, dynamic=True)
    attend: Any = _compiled_flex if query.device.type == "cuda" else flex_attention
    found: Tensor = attend(query, key, value, block_mask=block_mask, scale=scale, enable_gqa=True)
    return found


_compiled_flex: Any = None
_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACK = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _CpuTree(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_QHE: Tensor, key_NKE: Tensor, value_NKE: Tensor, tiles: Tiles, scale: float) -> Tensor:
        out_QHE = torch.empty_like(query_QHE, memory_format=torch.contiguous_format)
        log_sum_QH = query_QHE.new_empty(query_QHE.shape[:2])
        for tile, mask in tiles:
            q, k, v = _queries(query_QHE, tile), _seen(key_NKE, tile), _seen(value_NKE, tile)
            part, part_sum = _FLASH(q, k, v, 0.0, tile.mask == "causal", attn_mask=mask, scale=scale)
            join = _set if tile.is_first else _join
            join(_queries(out_QHE, tile), _queries(log_sum_QH[:, :, None], tile)[..., 0], part, part_sum)
        ctx.save_for_backward(query_QHE, key_NKE, value_NKE, out_QHE, log_sum_QH)
        ctx.tiles, ctx.scale = tiles, scale
        return out_QHE

    @staticmethod
    def backward(ctx: Any, to_out_QHE: Tensor) -> tuple[Tensor | None, ...]:
        query_QHE, key_NKE, value_NKE, out_QHE, log_sum_QH = ctx.saved_tensors
        to_query_QHE, to_key_NKE, to_value_NKE = (
            torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (query_QHE, key_NKE, value_NKE)
        )
        for tile, mask in ctx.tiles:
            # With the output and log-sum of the whole path, each part's gradients are those of the whole softmax.
            dq, dk, dv = _FLASH_BACK(
                _queries(to_out_QHE, tile), _queries(query_QHE, tile), _seen(key_NKE, tile), _seen(value_NKE, tile),
                _queries(out_QHE, tile), _queries(log_sum_QH[:, :, None], tile)[..., 0], 0.0, tile.mask == "causal",
                attn_mask=mask, scale=ctx.scale,
            )  # fmt: skip
            _queries(to_query_QHE, tile).add_(dq)
            _seen(to_key_NKE, tile).add_(dk)
            _seen(to_value_NKE, tile).add_(dv)
        return to_query_QHE, to_key_NKE, to_value_NKE, None, None


def _queries(x_QHE: Tensor, tile: AttentionTile) -> Tensor:
    return _blocks(x_QHE, tile.queries, tile)


def _seen(x_NKE: Tensor, tile: AttentionTile) -> Tensor:
    return _blocks(x_NKE, tile.keys, tile)


def _blocks(x_NHE: Tensor, first: slice, tile: AttentionTile) -> Tensor:
    """Return a view: blocks x heads x positions of a block x E."""
    size = first.stop - first.start
    reach = x_NHE[first.start : first.stop + (tile.blocks - 1) * tile.apart]
    return reach.unfold(0, size, max(1, tile.apart)).transpose(2, 3)


def _set(out: Tensor, log_sum: Tensor, part: Tensor, part_sum: Tensor) -> None:
    out.copy_(part)
    log_sum.copy_(part_sum)


def _join(out: Tensor, log_sum: Tensor, part: Tensor, part_sum: Tensor) -> None:
    """Add a part of the keys to attention over others, in place."""
    both = torch.logaddexp(log_sum, part_sum)
    # One weight is enough: the other is one less it.
    out.lerp_(part, (part_sum - both).exp_().unsqueeze(-1))
    log_sum.copy_(both)
