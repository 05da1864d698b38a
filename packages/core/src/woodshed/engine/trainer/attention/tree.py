"""Attention along the paths of a trie whose positions are laid out in preorder, as one sequence of tokens.

All descendants of a segment follow it in one contiguous run. So the segment attends to itself causally, and that whole
run attends to it without any mask. On a CPU (`tiles`) these are flash-attention calls (arXiv:2205.14135) on plain
views, planned by `attention_plan`; the results for one query are joined by their log-sum-exp, as flash attention joins
its own blocks. No key is copied for siblings and nothing is padded. On a GPU (`paths`) a run from a fork to a leaf
is one sequence of variable-length flash attention over the keys of its path (`path_plan`, `path_attention`), or
(`flex`) the same rule, k <= q < below(k), is a block mask of FlexAttention (arXiv:2412.05496).

Shapes: N positions (the keys), Q queries (the positions whose attention is computed), H attention heads, K key and
value heads, E head size. Q = N in all layers but the last.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from woodshed.engine.trainer.attention.attention_plan import AttentionTile, cut, plan_attention
from woodshed.engine.trainer.attention.cpu_flash import flash, flash_back, in_whole_blocks, onednn_is_better
from woodshed.engine.trainer.attention.path_attention import PathIndex, path_attention, path_indices
from woodshed.engine.trainer.attention.path_plan import PathCall, plan_paths
from woodshed.tokens.packing import Segment

Kernel = Literal["tiles", "paths", "flex"]
"""What computes the attention; `tiles` only on a CPU, `flex` only on a GPU, `paths` on both, on a CPU slowly."""
Tiles = tuple[tuple[AttentionTile, Tensor | None], ...]
"""The attention calls, each with its additive mask or None."""


@dataclass(frozen=True, kw_only=True)
class TreePlan:
    """Which positions of a pack attend to which."""

    segments: tuple[Segment, ...]
    queries: tuple[int, ...] | None = None
    """Positions of the queries, ascending; None for all. The last layer needs only those that predict a token."""
    device: torch.device
    kernel: Kernel = "tiles"

    def only(self, queries: Sequence[int]) -> TreePlan:
        """Return the plan in which only the given positions, ascending, are queries."""
        return replace(self, queries=tuple(queries))

    @cached_property
    def tiles(self) -> tuple[AttentionTile, ...]:
        """The flash-attention calls on a CPU, in the order in which they are made."""
        if self.queries is None:
            tiles = plan_attention(self.segments, lambda position: position)
        else:
            queries = self.queries
            runs = tuple(_split(self.segments, queries))
            tiles = plan_attention(runs, lambda position: bisect_left(queries, position))
        return tuple(cut(tiles, in_whole_blocks)) if onednn_is_better() else tiles

    @cached_property
    def masks(self) -> tuple[Tensor | None, ...]:
        """For each of `tiles`, its additive mask (queries x keys, 0 or -inf); None where it needs none."""
        return tuple(self._additive_mask(tile) if tile.mask == "tree" else None for tile in self.tiles)

    @cached_property
    def path_calls(self) -> tuple[PathCall, ...]:
        """The variable-length calls of `paths`, in the order of their queries."""
        return plan_paths(self.segments, self.queries)

    @cached_property
    def path_indices(self) -> tuple[PathIndex, ...]:
        """The tensors of `path_calls`."""
        positions = self.segments[-1].stop
        queries = range(positions) if self.queries is None else self.queries
        return path_indices(self.path_calls, queries, positions, self.device)

    def _additive_mask(self, tile: AttentionTile) -> Tensor:
        query_Q1, key_N = self.query_positions_Q[tile.queries, None], torch.arange(tile.keys.start, tile.keys.stop)
        attends_QN = (key_N <= query_Q1) & (query_Q1 < self.below_N[tile.keys])
        return torch.zeros(attends_QN.shape).masked_fill_(~attends_QN, -torch.inf)

    @cached_property
    def below_N(self) -> Tensor:
        """For each position, the end of the positions that attend to it (exclusive)."""
        sizes = torch.tensor([s.stop - s.start for s in self.segments])
        return torch.tensor([s.below for s in self.segments]).repeat_interleave(sizes).to(self.device)

    @cached_property
    def query_positions_Q(self) -> Tensor:
        """The positions of the queries, as a tensor."""
        if self.queries is None:
            return torch.arange(len(self.below_N), device=self.device)
        return torch.tensor(self.queries, dtype=torch.long, device=self.device)

    @cached_property
    def mask_QN(self) -> Tensor:
        """True where a query (row) attends to a key (column)."""
        query_Q1, key_N = self.query_positions_Q[:, None], torch.arange(len(self.below_N), device=self.device)
        return (query_Q1 >= key_N) & (query_Q1 < self.below_N)

    @cached_property
    def block_mask(self) -> Any:
        """The same mask for FlexAttention."""
        from torch.nn.attention.flex_attention import create_block_mask

        below_N, query_positions_Q = self.below_N, self.query_positions_Q

        def attends(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query_positions_Q[query]) & (query_positions_Q[query] < below_N[key])

        return create_block_mask(attends, None, None, len(query_positions_Q), len(below_N), device=str(self.device))


def _split(segments: Sequence[Segment], queries: Sequence[int]) -> Iterator[Segment]:
    """Split segments where runs of queries begin or end, so that all or none of a segment's positions are queries."""
    for s in segments:
        inside = set(queries[bisect_left(queries, s.start) : bisect_left(queries, s.stop)])
        edges = {edge for query in inside for edge in (query, query + 1) if (edge in inside) != (edge - 1 in inside)}
        for start, stop in pairwise(sorted({s.start, s.stop, *edges})):
            yield Segment(start=start, stop=stop, below=s.below)


def tree_attention(query_QHE: Tensor, key_NKE: Tensor, value_NKE: Tensor, plan: TreePlan, scale: float) -> Tensor:
    """Return each query's attention over its own path, as Q x H x E, with gradients to queries, keys and values.

    Args:
        query_QHE: The queries, as many as `plan` has.
        key_NKE: The keys of all positions; each of the K heads serves H / K query heads.
        value_NKE: The values, likewise.
        plan: Which positions attend to which.
        scale: What the scores are multiplied by.
    """
    if plan.kernel == "paths":
        return path_attention(query_QHE, key_NKE, value_NKE, plan.path_indices, scale)
    if plan.kernel == "tiles":
        tiles = tuple(zip(plan.tiles, plan.masks, strict=True))
        heads = (query_QHE, key_NKE, value_NKE)
        if not multiplies_half(query_QHE.dtype):
            heads = (query_QHE.float(), key_NKE.float(), value_NKE.float())
        out: Tensor = _CpuTree.apply(*heads, tiles, scale)
        return out.to(query_QHE.dtype)
    query, key, value = (x.transpose(0, 1)[None] for x in (query_QHE, key_NKE, value_NKE))
    return _flex(query, key, value, plan.block_mask, scale)[0].transpose(0, 1)


def multiplies_half(dtype: torch.dtype) -> bool:
    """Whether this CPU's attention should take heads of this precision as they are: it has matrix units for bfloat16.

    Without them (AMX) its flash attention is no faster in half precision than in fp32.
    """
    has_units = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not public; without it, fp32
    return dtype == torch.bfloat16 and has_units is not None and bool(has_units())


def _flex(query: Tensor, key: Tensor, value: Tensor, block_mask: Any, scale: float) -> Tensor:
    """Return the same by FlexAttention, as 1 x heads x Q x E; compiled on a GPU, where it has kernels."""
    from torch.nn.attention.flex_attention import flex_attention

    global _compiled_flex
    if query.device.type == "cuda" and _compiled_flex is None:
        _compiled_flex = torch.compile(flex_attention, dynamic=True)
    attend: Any = _compiled_flex if query.device.type == "cuda" else flex_attention
    out: Tensor = attend(
        query, key, value, block_mask=block_mask, scale=scale, enable_gqa=True, kernel_options=_FLEX_OPTIONS
    )  # fmt: skip
    return out


_FLEX_OPTIONS = {"FORCE_USE_FLEX_ATTENTION": True}
# Below 128 queries torch would take its kernel for decoding, which does not compile with 16 query heads of 128 numbers
# on 2 key heads (torch 2.11, 3B shapes of Qwen2.5); a last layer may have so few in any step.
_compiled_flex: Any = None


class _CpuTree(torch.autograd.Function):
    """Each call is in the precision of its heads; calls are joined, and their gradients added up, in fp32."""

    @staticmethod
    def forward(ctx: Any, query_QHE: Tensor, key_NKE: Tensor, value_NKE: Tensor, tiles: Tiles, scale: float) -> Tensor:
        out_QHE = query_QHE.new_empty(query_QHE.shape, dtype=torch.float32)
        log_sum_QH = query_QHE.new_empty(query_QHE.shape[:2], dtype=torch.float32)
        for tile, mask in tiles:
            q, k, v = _queries(query_QHE, tile), _keys(key_NKE, tile), _keys(value_NKE, tile)
            part, part_sum = flash(q, k, v, causal=tile.mask == "causal", mask=mask, scale=scale)
            join = _set if tile.is_first else _join
            join(_queries(out_QHE, tile), _queries(log_sum_QH[:, :, None], tile)[..., 0], part, part_sum)
        out_QHE = out_QHE.to(query_QHE.dtype)
        ctx.save_for_backward(query_QHE, key_NKE, value_NKE, out_QHE, log_sum_QH)
        ctx.tiles, ctx.scale = tiles, scale
        return out_QHE

    @staticmethod
    def backward(ctx: Any, to_out_QHE: Tensor) -> tuple[Tensor | None, ...]:
        query_QHE, key_NKE, value_NKE, out_QHE, log_sum_QH = ctx.saved_tensors
        to_query_QHE, to_key_NKE, to_value_NKE = (
            x.new_zeros(x.shape, dtype=torch.float32) for x in (query_QHE, key_NKE, value_NKE)
        )
        for tile, mask in ctx.tiles:
            # Given the output and log-sum of the whole path, each call's gradients are those of the whole softmax.
            dq, dk, dv = flash_back(
                _queries(to_out_QHE, tile), _queries(query_QHE, tile), _keys(key_NKE, tile), _keys(value_NKE, tile),
                _queries(out_QHE, tile), _queries(log_sum_QH[:, :, None], tile)[..., 0], causal=tile.mask == "causal",
                mask=mask, scale=ctx.scale,
            )  # fmt: skip
            _queries(to_query_QHE, tile).add_(dq)
            _keys(to_key_NKE, tile).add_(dk)
            _keys(to_value_NKE, tile).add_(dv)
        dtype = query_QHE.dtype
        return to_query_QHE.to(dtype), to_key_NKE.to(dtype), to_value_NKE.to(dtype), None, None


def _queries(x_QHE: Tensor, tile: AttentionTile) -> Tensor:
    return _blocks(x_QHE, tile.queries, tile)


def _keys(x_NKE: Tensor, tile: AttentionTile) -> Tensor:
    return _blocks(x_NKE, tile.keys, tile)


def _blocks(x_NHE: Tensor, first: slice, tile: AttentionTile) -> Tensor:
    """Return a view of the tile's blocks: blocks x heads x positions of a block x E."""
    size = first.stop - first.start
    covered = x_NHE[first.start : first.stop + (tile.blocks - 1) * tile.apart]
    return covered.unfold(0, size, max(1, tile.apart)).transpose(2, 3)


def _set(out: Tensor, log_sum: Tensor, part: Tensor, part_sum: Tensor) -> None:
    out.copy_(part)
    log_sum.copy_(part_sum)


def _join(out: Tensor, log_sum: Tensor, part: Tensor, part_sum: Tensor) -> None:
    """Join attention over further keys to attention over earlier ones, in place."""
    both = torch.logaddexp(log_sum, part_sum)
    # The two weights sum to 1, so one lerp joins both parts.
    out.lerp_(part.to(out.dtype), (part_sum - both).exp_().unsqueeze(-1))
    log_sum.copy_(both)
