"""Attention along a trie by variable-length flash attention over the keys of each path, gathered for the call.

`path_plan` says which keys. The gathered keys are not kept for the backward pass but gathered again, and what their
copies get is summed in fp32. The kernel is torch's `varlen_attn` on a GPU. On a CPU, where it does not exist, the
same contract is kept by plain products, sequence by sequence: right, and slow, so that plan and gathering can be tested
anywhere.

Shapes as in `path_plan`, and H attention heads, K key and value heads, E head size.
"""

from __future__ import annotations

import importlib.util
import inspect
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from woodshed.engine.trainer.attention.path_plan import PathCall

_CAUSAL = (-1, 0)
"""The window of causal attention. It is aligned at the bottom right: the last query sees the last key."""
_MAX_HEAD, _HEAD_MULTIPLE = 256, 8
_NEEDED = {"scale", "window_size", "return_aux"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """How the sequences of a call lie one after the other."""

    query_starts: Tensor
    """Start of each sequence's queries, and the end of the last: S + 1 numbers, int32."""
    key_starts: Tensor
    max_queries: int
    max_keys: int


Pair = tuple[Tensor, Tensor]


class PathIndex(NamedTuple):
    """A call's tensors."""

    lengths: Lengths
    key_U: Tensor | None
    """Position of each gathered key; None where they are all positions in order."""
    queries: int
    """How many of the plan's queries the call computes; the calls follow each other."""
    slot_Q: Tensor | None
    """Where each of them lies among the call's T queries; None where they are all of them in order."""
    total: int
    """T."""


def path_indices(
    calls: Sequence[PathCall], queries: Sequence[int], positions: int, device: torch.device
) -> tuple[PathIndex, ...]:
    """Return the tensors of a plan's calls.

    Args:
        calls: What `plan_paths` returned.
        queries: Positions of the plan's queries, ascending.
        positions: N.
        device: Where the tensors are to lie.
    """
    found, done = [], 0
    for call in calls:
        runs_T = _positions(call.queries)
        count = bisect_left(queries, call.queries[-1].stop) - done
        slot_Q = torch.searchsorted(runs_T, torch.tensor(queries[done : done + count]))
        found.append(
            PathIndex(
                lengths=Lengths(
                    query_starts=_starts(call.query_counts_S, device),
                    key_starts=_starts(call.key_counts_S, device),
                    max_queries=max(call.query_counts_S),
                    max_keys=max(call.key_counts_S),
                ),
                key_U=None if call.keys == (slice(0, positions),) else _positions(call.keys).to(device),
                queries=count,
                slot_Q=None if count == len(runs_T) else slot_Q.to(device),
                total=len(runs_T),
            )
        )
        done += count
    return tuple(found)


def _positions(runs: Sequence[slice]) -> Tensor:
    return torch.cat([torch.arange(run.start, run.stop) for run in runs])


def _starts(counts: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0).to(device, torch.int32)


def path_attention(
    query_QHE: Tensor, key_NKE: Tensor, value_NKE: Tensor, indices: Sequence[PathIndex], scale: float
) -> Tensor:
    """Return each query's attention over its own path, as Q x H x E, with gradients to queries, keys and values.

    Raises:
        TypeError: The kernel does not take such heads.
        ImportError: This torch has no such kernel.
    """
    if query_QHE.is_cuda:
        _check_heads(query_QHE)
    out_QHE: Tensor = _PathAttention.apply(query_QHE, key_NKE, value_NKE, tuple(indices), scale)
    return out_QHE


def _check_heads(query_QHE: Tensor) -> None:
    size = query_QHE.shape[-1]
    if query_QHE.dtype not in (torch.float16, torch.bfloat16):
        raise TypeError(f"variable-length attention takes float16 and bfloat16, not {query_QHE.dtype}")
    if size > _MAX_HEAD or size % _HEAD_MULTIPLE:
        raise TypeError(
            f"variable-length attention takes heads of at most {_MAX_HEAD} numbers, a multiple of {_HEAD_MULTIPLE}; "
            f"this model's have {size}"
        )


class _PathAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_QHE: Tensor, key_NKE: Tensor, value_NKE: Tensor, indices: tuple[PathIndex, ...], scale: float
    ) -> Tensor:
        kernel = _kernel(query_QHE.is_cuda)
        parts = [
            kernel.forward(_expanded(query, at), _gathered(at, key_NKE, value_NKE), at.lengths, scale)
            for query, at in zip(_by_call(query_QHE, indices), indices, strict=True)
        ]
        ctx.save_for_backward(query_QHE, key_NKE, value_NKE, *(x for part in parts for x in part))
        ctx.indices, ctx.scale = indices, scale
        outs = [_picked(out_THE, at) for (out_THE, _), at in zip(parts, indices, strict=True)]
        # A lone output would be both saved and returned, which autograd takes only from a view.
        return torch.cat(outs) if len(outs) > 1 else outs[0].view_as(outs[0])

    @staticmethod
    def backward(ctx: Any, to_out_QHE: Tensor) -> tuple[Tensor | None, ...]:
        query_QHE, key_NKE, value_NKE, *saved = ctx.saved_tensors
        kernel = _kernel(query_QHE.is_cuda)
        to_queries = []
        wide = torch.promote_types(key_NKE.dtype, torch.float32)
        to_key_NKE, to_value_NKE = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (key_NKE, value_NKE))
        by_call = zip(_by_call(query_QHE, ctx.indices), _by_call(to_out_QHE, ctx.indices), ctx.indices, strict=True)
        for number, (query, to_out, at) in enumerate(by_call):
            out_THE, log_sum = saved[2 * number : 2 * number + 2]
            to_query_THE, *to_gathered = kernel.backward(
                _expanded(to_out, at), _expanded(query, at), _gathered(at, key_NKE, value_NKE), (out_THE, log_sum),
                at.lengths, ctx.scale,
            )  # fmt: skip
            to_queries.append(_picked(to_query_THE, at))
            for total_NKE, to_UKE in zip((to_key_NKE, to_value_NKE), to_gathered, strict=True):
                if at.key_U is None:
                    total_NKE.add_(to_UKE)
                else:
                    total_NKE.index_add_(0, at.key_U, to_UKE.to(wide))
        return torch.cat(to_queries), to_key_NKE.to(key_NKE.dtype), to_value_NKE.to(value_NKE.dtype), None, None


def _by_call(x_QHE: Tensor, indices: Sequence[PathIndex]) -> tuple[Tensor, ...]:
    return x_QHE.split([at.queries for at in indices])


def _gathered(at: PathIndex, key_NKE: Tensor, value_NKE: Tensor) -> tuple[Tensor, Tensor]:
    if at.key_U is None:
        return key_NKE, value_NKE
    return key_NKE.index_select(0, at.key_U), value_NKE.index_select(0, at.key_U)


def _expanded(x_QHE: Tensor, at: PathIndex) -> Tensor:
    """Return a call's T queries, with zeros for those that nobody asked for: nothing comes back from them."""
    if at.slot_Q is None:
        return x_QHE.contiguous()
    return x_QHE.new_zeros((at.total, *x_QHE.shape[1:])).index_copy_(0, at.slot_Q, x_QHE)


def _picked(x_THE: Tensor, at: PathIndex) -> Tensor:
    return x_THE if at.slot_Q is None else x_THE.index_select(0, at.slot_Q)


class _OnGpu:
    """torch's variable-length flash attention."""

    def __init__(self) -> None:
        try:
            from torch.nn.attention import varlen
        except ImportError as error:
            raise ImportError(f"torch {torch.__version__} has no torch.nn.attention.varlen; 2.13 does") from error
        taken = set(inspect.signature(varlen.varlen_attn).parameters)
        if missing := _NEEDED - taken:
            raise ImportError(
                f"torch {torch.__version__} has a variable-length attention without {sorted(missing)}; 2.13 has it"
            )
        self._forward, self._want = varlen.varlen_attn, varlen.AuxRequest(lse=True)
        # torch 2.11 hands fewer key heads than query heads to the same kernel without being asked.
        self._shared_heads = {"enable_gqa": True} if "enable_gqa" in taken else {}
        # Its autograd would keep the gathered keys, so its backward pass is called by itself.
        self._backward = torch.ops.torch_attn._varlen_attn_backward

    def forward(self, query: Tensor, gathered: Pair, at: Lengths, scale: float) -> Pair:
        """Return the output and the log-sums of a call's sequences."""
        key, value = gathered
        out, log_sum = self._forward(
            query, key, value, at.query_starts, at.key_starts, at.max_queries, at.max_keys,
            return_aux=self._want, scale=scale, window_size=_CAUSAL, **self._shared_heads,
        )  # fmt: skip
        return out, log_sum

    def backward(
        self, to_out: Tensor, query: Tensor, gathered: Pair, result: Pair, at: Lengths, scale: float
    ) -> tuple[Tensor, ...]:
        """Return the gradients to queries, keys and values."""
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=query.device)
        gradients: tuple[Tensor, ...] = self._backward(
            to_out, query, *gathered, *result, at.query_starts, at.key_starts, at.max_queries, at.max_keys, True,
            no_dropout, scale, list(_CAUSAL),
        )  # fmt: skip
        return gradients


class _OnCpu:
    """The same contract by plain products, one sequence after the other, in any precision."""

    def forward(self, query: Tensor, gathered: Pair, at: Lengths, scale: float) -> Pair:
        """Return the output (T x H x E) and the log-sums (H x T) of a call's sequences."""
        out, log_sum = _on_cpu(query, *gathered, at.query_starts, at.key_starts, scale)
        return out, log_sum

    def backward(
        self, to_out: Tensor, query: Tensor, gathered: Pair, result: Pair, at: Lengths, scale: float
    ) -> tuple[Tensor, ...]:
        """Return the gradients to queries, keys and values."""
        return tuple(_on_cpu_backward(to_out, query, *gathered, *result, at.query_starts, at.key_starts, scale))


def _sequences(
    query: Tensor, key: Tensor, value: Tensor, query_starts: Tensor, key_starts: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    parts = [
        _attended(query[q], key[k], value[k], scale)
        for q, k in zip(_slices(query_starts), _slices(key_starts), strict=True)
    ]
    return torch.cat([out for out, _ in parts]), torch.cat([log_sum for _, log_sum in parts], -1)


def _sequences_backward(
    to_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, log_sum: Tensor, query_starts: Tensor,
    key_starts: Tensor, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    parts = [
        _attended_backward(to_out[q], query[q], key[k], value[k], out[q], log_sum[:, q], scale)
        for q, k in zip(_slices(query_starts), _slices(key_starts), strict=True)
    ]
    to_query, to_key, to_value = (torch.cat(of) for of in zip(*parts, strict=True))
    return to_query, to_key, to_value


# Operators of their own, as the GPU's are: what a checkpointed layer keeps is chosen by operator.
_on_cpu: Any = torch.library.custom_op("woodshed::path_attention_on_cpu", _sequences, mutates_args=())
_on_cpu_backward: Any = torch.library.custom_op(
    "woodshed::path_attention_on_cpu_backward", _sequences_backward, mutates_args=()
)


def _slices(starts: Tensor) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(starts.tolist())]


def _scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Return one sequence's scores (H x queries x keys), causal from the bottom right."""
    queries, keys = len(query), len(key)
    sees = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    scores = torch.einsum("qhe,khe->hqk", query, key.repeat_interleave(query.shape[1] // key.shape[1], 1)) * scale
    return scores.masked_fill(~sees, -torch.inf)


def _attended(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return one sequence's attention, and the log-sums of its scores (H x queries)."""
    scores = _scores(query, key, scale)
    wide = value.repeat_interleave(query.shape[1] // key.shape[1], 1)
    return torch.einsum("hqk,khe->qhe", scores.softmax(-1), wide), scores.logsumexp(-1)


def _attended_backward(
    to_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, log_sum: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one sequence's gradients to queries, keys and values."""
    shared = query.shape[1] // key.shape[1]
    weights = (_scores(query, key, scale) - log_sum[..., None]).exp()
    to_weights = torch.einsum("qhe,khe->hqk", to_out, value.repeat_interleave(shared, 1))
    to_scores = weights * (to_weights - (to_out * out).sum(-1).t()[..., None]) * scale
    to_query = torch.einsum("hqk,khe->qhe", to_scores, key.repeat_interleave(shared, 1))
    to_key, to_value = torch.einsum("hqk,qhe->khe", to_scores, query), torch.einsum("hqk,qhe->khe", weights, to_out)
    heads = (-1, shared)
    return to_query, to_key.unflatten(1, heads).sum(2), to_value.unflatten(1, heads).sum(2)


def attention_operators() -> list[Any]:
    """Return the operators of both kernels, as far as this torch has them."""
    operators = [torch.ops.woodshed.path_attention_on_cpu.default]
    if importlib.util.find_spec("torch.nn.attention.varlen") is not None:
        importlib.import_module("torch.nn.attention.varlen")
        operators.append(torch.ops.torch_attn._varlen_attn.default)
    return operators


@cache
def _kernel(is_cuda: bool) -> _OnGpu | _OnCpu:
    return _OnGpu() if is_cuda else _OnCpu()
