"""Promises of attention over each path's keys: the values and gradients of a mask, for any tree, heads and queries.

On a CPU the GPU's plan is run, its gathering and its sums of gradients, with the kernel replaced by plain products.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import ARCHITECTURES, CPU, model, one_at_a_time, packed, tree
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from woodshed.engine.trainer.attention import path_attention as path_module
from woodshed.engine.trainer.attention import path_plan
from woodshed.engine.trainer.attention.path_plan import plan_paths
from woodshed.engine.trainer.attention.tree import TreePlan, tree_attention
from woodshed.tokens import pack_rows

HEADS = st.sampled_from([(4, 2, 8), (2, 2, 64), (4, 1, 96), (8, 2, 128), (7, 1, 64)])
"""Query heads, key heads, numbers of a head."""
LIMITS = st.sampled_from([1, 30, path_plan.MAX_KEYS])
"""Most keys of a call: from a call for each path to one for all."""


@contextmanager
def limited(keys: int) -> Iterator[None]:
    usual = plan_paths.__kwdefaults__["max_keys"]
    plan_paths.__kwdefaults__["max_keys"] = keys
    try:
        yield
    finally:
        plan_paths.__kwdefaults__["max_keys"] = usual


def masked(query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, scale: float) -> Tensor:
    """Return the attention by a plain softmax under the tree's mask."""
    shared = query.shape[1] // key.shape[1]
    scores = torch.einsum("qhe,khe->hqk", query, key.repeat_interleave(shared, 1)) * scale
    weights = scores.masked_fill(~plan.mask_QN, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khe->qhe", weights, value.repeat_interleave(shared, 1))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), heads=HEADS, keys=LIMITS, some=st.booleans())
def test_attention_over_paths_is_attention_under_the_mask(
    seed: int, heads: tuple[int, int, int], keys: int, some: bool
) -> None:
    (pack,) = pack_rows([row.row.token_ids for row in tree(seed)], token_budget=10_000)
    count, draw = len(pack.token_ids), random.Random(seed)
    plan = TreePlan(segments=pack.segments(), device=CPU, kernel="paths")
    at = sorted(draw.sample(range(count), draw.randint(1, count))) if some else list(range(count))
    plan = plan.only(at) if some else plan
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(n, h, heads[2], generator=generator, dtype=torch.double, requires_grad=True)
        for n, h in ((len(at), heads[0]), (count, heads[1]), (count, heads[1]))
    )
    with limited(keys):
        found = tree_attention(query, key, value, plan, 0.3)
    plain = masked(query, key, value, plan, 0.3)
    weights = torch.randn(found.shape, generator=generator, dtype=torch.double)
    ours = torch.autograd.grad((found * weights).sum(), (query, key, value))
    theirs = torch.autograd.grad((plain * weights).sum(), (query, key, value))

    assert (found - plain).abs().max() < 1e-12
    assert all((a - b).abs().max() < 1e-11 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.usefixtures("over_paths")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_whole_models_train_over_paths_as_one_row_at_a_time(architecture: str, checkpointed: bool) -> None:
    for seed in range(12):
        of, rows = model(architecture), tree(seed)
        expected, plain = one_at_a_time(of, rows)
        found, along = packed(of, rows, "tree", 10_000 if seed % 2 else 25, checkpointed)

        assert found == pytest.approx(expected, abs=2e-5)
        assert (along - plain).norm() <= 2e-5 * plain.norm()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), keys=LIMITS)
def test_each_query_asks_once_over_its_own_path_and_no_more_keys_are_gathered_than_rows_have_tokens(
    seed: int, keys: int
) -> None:
    rows = sorted({row.row.token_ids for row in tree(seed)})
    (pack,) = pack_rows(rows, token_budget=10_000)
    calls = plan_paths(pack.segments(), None, max_keys=keys)
    path_of = {path[k]: list(path[: k + 1]) for path in pack.paths for k in range(len(path))}
    asked: list[int] = []
    for call in calls:
        key_U = [k for s in call.keys for k in range(s.start, s.stop)]
        for queries, count in zip(call.queries, call.key_counts_S, strict=True):
            mine, key_U = key_U[:count], key_U[count:]
            for number, query in enumerate(reversed(range(queries.start, queries.stop))):
                assert mine[: count - number] == path_of[query]
            asked += range(queries.start, queries.stop)
        assert not key_U
        assert len(call.query_counts_S) == 1 or call.gathered <= keys

    assert asked == list(range(len(pack.token_ids)))
    assert sum(call.gathered for call in calls) <= sum(len(row) for row in rows)
    assert sum(call.pairs for call in calls) == sum(len(path) for path in path_of.values())


def test_shared_prefix_of_a_group_is_computed_once_and_gathered_for_each_rollout() -> None:
    (pack,) = pack_rows([(1,) * 2048 + (k,) * 704 for k in range(2, 18)], token_budget=10**6)
    (call,) = plan_paths(pack.segments(), None)

    assert call.query_counts_S == (2752, *[704] * 15)
    assert call.gathered == 16 * 2752
    assert call.pairs == 2752 * 2753 // 2 + 15 * (704 * 2752 - 704 * 703 // 2)


def test_gathered_keys_are_not_kept_for_the_backward_pass() -> None:
    (pack,) = pack_rows([(1,) * 400 + (k,) * 4 for k in range(2, 42)], token_budget=10**6)
    plan = TreePlan(segments=pack.segments(), device=CPU, kernel="paths")
    count = len(pack.token_ids)
    query, key, value = (torch.randn(count, h, 8, requires_grad=True) for h in (4, 2, 2))
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        tree_attention(query, key, value, plan, 0.3)
    gathered = sum(call.gathered for call in plan.path_calls) * 2 * 2 * 8 * 4

    assert sum(kept.values()) <= count * (4 + 2 + 2 + 4) * 8 * 4 + count * 4 * 4 + 64
    assert sum(kept.values()) < 0.2 * gathered


def test_copies_of_a_shared_key_are_summed_in_fp32() -> None:
    rows = [(1,) * 8 + (k,) * 2 for k in range(2, 66)]
    (pack,) = pack_rows(rows, token_budget=10**6)
    plan = TreePlan(segments=pack.segments(), device=CPU, kernel="paths")
    count = len(pack.token_ids)
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(count, h, 8, generator=generator).bfloat16().double() for h in (2, 2, 2)]
    exact[2] += 1.0
    half = [x.bfloat16().requires_grad_() for x in exact]
    wide = [x.bfloat16().double().requires_grad_() for x in exact]
    ours = torch.autograd.grad(tree_attention(*half, plan, 0.3).sum(), half)
    theirs = torch.autograd.grad(masked(*wide, plan, 0.3).sum(), wide)

    assert {x.dtype for x in ours} == {torch.bfloat16}
    # One rounding of the sum, and those of the kernel, but none for each of the 64 copies.
    assert (ours[2][:8] - theirs[2][:8]).norm() < 4e-3 * theirs[2][:8].norm()


@pytest.mark.parametrize(
    ("dtype", "size", "told"),
    [(torch.float32, 64, "takes float16 and bfloat16, not torch.float32"), (torch.bfloat16, 100, "multiple of 8"),
     (torch.bfloat16, 264, "at most 256")],
)  # fmt: skip
def test_heads_that_the_gpu_kernel_does_not_take_are_named(dtype: torch.dtype, size: int, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        path_module._check_heads(torch.empty(3, 2, size, dtype=dtype))


def test_this_torch_has_the_gpu_kernel_with_all_that_is_asked_of_it() -> None:
    kernel = path_module._OnGpu()
    names = [a.name for a in kernel._backward.default._schema.arguments]

    assert names == [
        "grad_out", "query", "key", "value", "out", "lse", "cu_seq_q", "cu_seq_k", "max_q", "max_k", "is_causal",
        "rng_state", "scale", "window_size",
    ]  # fmt: skip


class Context:
    """What autograd hands to a function's passes, without autograd, which fake tensors of a missing GPU do not have."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors


def without_enable_gqa(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give torch's function the arguments that it had in 2.11."""
    from torch.nn.attention import varlen

    usual = varlen.varlen_attn

    def older(
        query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
        return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
    ) -> Any:  # fmt: skip
        return usual(
            query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, return_aux=return_aux, scale=scale,
            window_size=window_size, enable_gqa=True,
        )  # fmt: skip

    monkeypatch.setattr(varlen, "varlen_attn", older)


@pytest.mark.parametrize("older", [False, True], ids=["torch 2.13", "torch 2.11"])
def test_gpu_kernel_takes_what_it_is_given(older: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fake tensors: torch checks and infers each call's arguments, dtypes and shapes on a GPU, and computes nothing.
    path_module._kernel.cache_clear()
    if older:
        without_enable_gqa(monkeypatch)
    (pack,) = pack_rows([(1,) * 40 + (k,) * 9 for k in range(2, 6)], token_budget=10**6)
    count, queries = len(pack.token_ids), [3, 41, 45, 50, 60, 61]
    with torch.no_grad(), FakeTensorMode(), limited(100):
        cuda = torch.device("cuda:0")
        plan = TreePlan(segments=pack.segments(), device=cuda, kernel="paths").only(queries)
        query, key, value = (
            torch.empty(n, h, 128, dtype=torch.bfloat16, device=cuda) for n, h in ((6, 16), (count, 2), (count, 2))
        )
        context = Context()
        out = path_module._PathAttention.forward(context, query, key, value, plan.path_indices, 0.1)
        gradients = path_module._PathAttention.backward(context, torch.empty_like(out))[:3]
    path_module._kernel.cache_clear()

    assert len(plan.path_calls) == 2
    assert (out.shape, out.dtype, out.device) == (query.shape, torch.bfloat16, cuda)
    assert [(g.shape, g.dtype, g.device) for g in gradients] == [
        (x.shape, torch.bfloat16, cuda) for x in (query, key, value)
    ]


def test_torch_without_the_gpu_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import varlen

    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k: query)
    with pytest.raises(ImportError, match=r"without \['return_aux', 'scale', 'window_size'\]"):
        path_module._OnGpu()
