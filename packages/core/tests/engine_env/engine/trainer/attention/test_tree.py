"""Promises of packing in the model: random trees give the log-probabilities and gradients of one row at a time.

Three architectures, the tree mode and the dense one, with and without checkpointing.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import ARCHITECTURES, CPU, VOCABULARY, model, one_at_a_time, packed, tree
from torch import Tensor

from woodshed.engine.trainer.attention import attention_plan, cpu_flash
from woodshed.engine.trainer.attention import tree as tree_module
from woodshed.engine.trainer.attention.attention_plan import AttentionTile
from woodshed.engine.trainer.attention.tree import TreePlan, tree_attention
from woodshed.engine.trainer.forward import ForwardMode
from woodshed.engine.trainer.forward_mode import choose_forward_mode
from woodshed.tokens import pack_rows

CALLS = st.sampled_from([0, 8, 40, attention_plan._CALL])
"""Prices of an attention call: from one for each run of a tree, in halves, to one for all of it under a mask."""


@contextmanager
def priced(call: int) -> Iterator[None]:
    """Plan as if an attention call cost as much as so many pairs, and with blocks that small trees have several of."""
    usual = attention_plan._CALL, attention_plan._BLOCK
    attention_plan._CALL, attention_plan._BLOCK = call, 64 if call == usual[0] else 2
    try:
        yield
    finally:
        attention_plan._CALL, attention_plan._BLOCK = usual


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), budget=st.sampled_from([10_000, 25]), checkpointed=st.booleans(), call=CALLS)
def test_random_trees_train_as_one_row_at_a_time(
    architecture: str, seed: int, budget: int, checkpointed: bool, call: int
) -> None:
    of, rows = model(architecture), tree(seed)
    expected, plain = one_at_a_time(of, rows)
    with priced(call):
        found, along = packed(of, rows, "tree", budget, checkpointed)

    assert found == pytest.approx(expected, abs=2e-5)
    assert (along - plain).norm() <= 2e-5 * plain.norm()


@contextmanager
def cut_into(rows: int, keys: int) -> Iterator[list[AttentionTile]]:
    """Cut calls into whole blocks of so many queries and keys, on any CPU; return what they were cut to."""
    usual = tree_module.onednn_is_better, tree_module.in_whole_blocks, tree_module.cut
    cut_to: list[AttentionTile] = []

    def whole(queries: int, keys_there: int) -> tuple[int, int] | None:
        inside = queries - queries % rows, keys_there - keys_there % keys
        return inside if all(inside) else None

    def cut(tiles: Iterable[AttentionTile], _: object) -> Iterator[AttentionTile]:
        for tile in attention_plan.cut(tiles, whole):
            cut_to.append(tile)
            yield tile

    tree_module.onednn_is_better, tree_module.in_whole_blocks, tree_module.cut = lambda: True, whole, cut
    try:
        yield cut_to
    finally:
        tree_module.onednn_is_better, tree_module.in_whole_blocks, tree_module.cut = usual


def test_random_trees_whose_calls_are_cut_into_blocks_train_as_one_row_at_a_time() -> None:
    of, cut_to = model("qwen2"), []
    for seed in range(30):
        expected, plain = one_at_a_time(of, tree(seed))
        with priced(8), cut_into(3, 2) as tiles:
            found, along = packed(of, tree(seed), "tree", 10_000)
        cut_to += tiles

        assert found == pytest.approx(expected, abs=2e-5)
        assert (along - plain).norm() <= 2e-5 * plain.norm()
    sizes = {(t.queries.stop - t.queries.start, t.keys.stop - t.keys.start, t.is_first) for t in cut_to}
    assert {(3, 1, False), (2, 4, False), (1, 3, False)} <= sizes


@cache
def half(architecture: str) -> tuple[Any, Any]:
    """Return the model in bfloat16 with its LoRA in fp32, as PEFT has it, and the same weights all in fp32."""
    rounded = copy.deepcopy(model(architecture))
    for name, parameter in rounded.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    return rounded, copy.deepcopy(rounded).float()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_strays_no_further_along_the_tree_than_row_by_row(architecture: str) -> None:
    of, whole = half(architecture)
    strayed = {"tree": 0.0, "rows": 0.0}
    for seed in range(12):
        expected, exact = one_at_a_time(whole, tree(seed))
        for mode in ("tree", "rows"):
            found, along = packed(of, tree(seed), mode, 40)
            off = max(abs(a - b) for a, b in zip(found, expected, strict=True))
            strayed[mode] += float((along - exact).norm() / exact.norm()) / 12

            assert off < 0.15
    assert choose_forward_mode(of, VOCABULARY, CPU).mode == "tree"
    assert 0 < strayed["tree"] <= 1.5 * strayed["rows"] < 0.05


@pytest.mark.parametrize("has_units", [True, False])
def test_cpu_with_matrix_units_attends_in_half_precision_and_strays_no_further(
    has_units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_units)
    attended: set[torch.dtype] = set()
    for name in ("_FLASH", "_FLASH_BACK"):
        plain = getattr(cpu_flash, name)

        def seen(*given: Any, plain: Any = plain, **rest: Any) -> Any:
            attended.update(x.dtype for x in given[:3])
            return plain(*given, **rest)

        monkeypatch.setattr(cpu_flash, name, seen)
    of, whole = half("qwen2")
    strayed = {"tree": 0.0, "rows": 0.0}
    # Calls so cheap that a path is joined from many of them.
    with priced(8):
        for seed in range(12):
            _, exact = one_at_a_time(whole, tree(seed))
            for mode in ("tree", "rows"):
                _, along = packed(of, tree(seed), mode, 40)
                strayed[mode] += float((along - exact).norm() / exact.norm()) / 12

    assert attended == {torch.bfloat16 if has_units else torch.float32}
    assert 0 < strayed["tree"] <= 1.5 * strayed["rows"] < 0.05


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("mode", ["dense", "rows"])
def test_other_paths_give_the_same(architecture: str, mode: ForwardMode) -> None:
    for seed in range(6):
        expected, plain = one_at_a_time(model(architecture), tree(seed))
        found, other = packed(model(architecture), tree(seed), mode, 40)

        assert found == pytest.approx(expected, abs=2e-5)
        assert (other - plain).norm() <= 2e-5 * plain.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_of_the_llama_family_take_the_tree(architecture: str) -> None:
    assert choose_forward_mode(model(architecture), VOCABULARY, CPU).mode == "tree"


@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), call=CALLS)
def test_attention_along_the_tree_is_attention_under_its_mask(seed: int, call: int) -> None:
    (pack,) = pack_rows([row.row.token_ids for row in tree(seed)], token_budget=10_000)
    count = len(pack.token_ids)
    draw = random.Random(seed)
    queries = sorted(draw.sample(range(count), draw.randint(1, count)))
    plan = TreePlan(segments=pack.segments(), device=CPU)
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(count, h, 8, generator=generator, requires_grad=True) for h in (4, 2, 2))

    for chosen, at in ((plan, list(range(count))), (plan.only(queries), queries)):
        with priced(call):
            found = tree_attention(query[at], key, value, chosen, 0.3)
        q, k, v = (x.double().transpose(0, 1)[None] for x in (query[at], key, value))
        plain = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=chosen.mask_QN[None, None], scale=0.3, enable_gqa=True
        )[0].transpose(0, 1)
        weights = torch.randn(found.shape, generator=generator)
        ours = torch.autograd.grad((found * weights).sum(), (query, key, value))
        theirs = torch.autograd.grad((plain * weights).sum(), (query, key, value))

        assert torch.allclose(found.double(), plain, atol=2e-5)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


def test_mask_lets_each_position_see_its_own_path() -> None:
    for seed in range(30):
        (pack,) = pack_rows([row.row.token_ids for row in tree(seed)], token_budget=10_000)
        sees = TreePlan(segments=pack.segments(), device=CPU).mask_QN
        expected = torch.zeros_like(sees)
        for mode in pack.paths:
            for k, at in enumerate(mode):
                expected[at, list(mode[: k + 1])] = True

        assert torch.equal(sees, expected)


def attended(rows: list[tuple[int, ...]]) -> tuple[TreePlan, tuple[Tensor, Tensor, Tensor], Tensor]:
    """Return a plan, random heads, and attention of each position over its own mode by a plain softmax."""
    (pack,) = pack_rows(rows, token_budget=10_000)
    plan = TreePlan(segments=pack.segments(), device=CPU)
    generator = torch.Generator().manual_seed(0)
    heads = tuple(torch.randn(len(pack.token_ids), h, 8, generator=generator) for h in (4, 2, 2))
    query, key, value = heads
    scores = torch.einsum("qhe,khe->hqk", query.double(), key.double().repeat_interleave(2, 1)) * 0.3
    weights = scores.masked_fill(~plan.mask_QN, -torch.inf).softmax(-1)
    return plan, (query, key, value), torch.einsum("hqk,khe->qhe", weights, value.double().repeat_interleave(2, 1))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_gpu_attention_is_that_of_the_cpu() -> None:
    # FlexAttention runs on a CPU without being compiled, and has no backward pass there.
    for seed in range(10):
        plan, heads, expected = attended([row.row.token_ids for row in tree(seed)])
        query, key, value = (x.transpose(0, 1)[None] for x in heads)
        found = tree_module._flex(query, key, value, plan.block_mask, 0.3)[0].transpose(0, 1)

        assert torch.allclose(found.double(), expected, atol=2e-5)
        assert torch.allclose(tree_attention(*heads, plan, 0.3), found, atol=2e-5)


@pytest.mark.parametrize(
    "rows",
    [
        [(k,) for k in range(1100)],
        [(1,) * 700, (1,) * 300 + (2,) * 9, (1,) * 300 + (3,)],
        [tuple([1] * k + [2]) for k in range(300)],
    ],
    ids=["many roots", "long run", "a fork at every token"],
)
def test_any_shape_of_tree_is_planned_right_and_not_wastefully(rows: list[tuple[int, ...]]) -> None:
    plan, heads, expected = attended(rows)
    pairs = sum(tile.pairs for tile in plan.tiles)

    assert torch.allclose(tree_attention(*heads, plan, 0.3).double(), expected, atol=2e-5)
    # Never dearer than one call under a mask.
    assert pairs + attention_plan._CALL * len(plan.tiles) <= plan.mask_QN.numel() + attention_plan._CALL


@pytest.mark.parametrize("count", [127, 128, 200, 255, 448, 700, 1023, 1024])
def test_a_long_run_is_a_staircase_of_few_calls(count: int) -> None:
    plan, heads, expected = attended([(1,) * count])

    assert torch.allclose(tree_attention(*heads, plan, 0.3).double(), expected, atol=2e-5)
    assert len(plan.tiles) <= 10


def test_a_tiny_tree_is_a_few_calls_and_a_long_run_is_hardly_wasteful() -> None:
    few = attended([(*range(60), k, k % 7, 5) for k in range(61, 90)])[0].tiles
    long = attended([(1,) * 1024])[0].tiles

    assert len(few) <= 3
    assert {tile.mask for tile in long} == {"causal", "none"}
    assert len(long) == 5
    assert sum(tile.pairs for tile in long) < 0.54 * 1024**2
