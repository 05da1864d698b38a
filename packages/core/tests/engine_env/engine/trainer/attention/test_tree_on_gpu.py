"""On a GPU, too, random trees train as one row at a time; needs nothing but pytest and what the trainer needs."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from random_trees import ARCHITECTURES, model, packed, tree

from woodshed.engine.trainer.attention.tree import Kernel, TreePlan, tree_attention
from woodshed.engine.trainer.kernel_race import Heads, faster_mode
from woodshed.tokens import pack_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
HEADS = [(4, 2, 8), (14, 2, 64), (16, 2, 128), (8, 8, 96)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_trees_on_a_gpu_train_as_one_row_at_a_time(architecture: str) -> None:
    cuda = torch.device("cuda")
    of = model(architecture).to(cuda)
    try:
        for seed in range(8):
            along, tree_gradient = packed(of, tree(seed), "flex", 10_000, device=cuda)
            alone, rows_gradient = packed(of, tree(seed), "rows", 10_000, device=cuda)

            assert along == pytest.approx(alone, abs=2e-3)
            assert (tree_gradient - rows_gradient).norm() <= 5e-3 * rows_gradient.norm()
    finally:
        of.to("cpu")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_over_paths_strays_no_further_than_row_by_row(architecture: str) -> None:
    cuda = torch.device("cuda")
    of = copy.deepcopy(model(architecture)).to(cuda)
    for name, parameter in of.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    whole = copy.deepcopy(of).float()
    strayed = {"tree": 0.0, "rows": 0.0}
    for seed in range(8):
        _, exact = packed(whole, tree(seed), "rows", 10_000, device=cuda)
        for mode in ("tree", "rows"):
            _, gradient = packed(of, tree(seed), mode, 10_000, device=cuda)
            strayed[mode] += float((gradient - exact).norm() / exact.norm()) / 8

    assert 0 < strayed["tree"] <= 1.5 * strayed["rows"]


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("kernel", ["paths", "flex"])
@pytest.mark.parametrize("few", [False, True], ids=["all queries", "few queries"])
def test_kernel_gives_the_attention_of_the_mask(heads: tuple[int, int, int], kernel: Kernel, few: bool) -> None:
    cuda = torch.device("cuda")
    generator = torch.Generator(cuda).manual_seed(0)
    for seed in range(4):
        (pack,) = pack_rows([row.row.token_ids for row in tree(seed)], token_budget=10_000)
        count = len(pack.token_ids)
        at = list(range(0, count, 3)) if few else list(range(count))
        plan = TreePlan(segments=pack.segments(), device=cuda, kernel=kernel)
        plan = plan.only(at) if few else plan
        query, key, value = (
            torch.randn(n, h, heads[2], device=cuda, generator=generator, dtype=torch.bfloat16, requires_grad=True)
            for n, h in ((len(at), heads[0]), (count, heads[1]), (count, heads[1]))
        )
        scale = 1 / math.sqrt(heads[2])
        found = tree_attention(query, key, value, plan, scale)
        wide = [x.detach().double().requires_grad_() for x in (query, key, value)]
        shared = heads[0] // heads[1]
        scores = torch.einsum("qhe,khe->hqk", wide[0], wide[1].repeat_interleave(shared, 1)) * scale
        weights = scores.masked_fill(~plan.mask_QN, -torch.inf).softmax(-1)
        exact = torch.einsum("hqk,khe->qhe", weights, wide[2].repeat_interleave(shared, 1))
        ours = torch.autograd.grad(found.float().sin().sum(), (query, key, value))
        theirs = torch.autograd.grad(exact.sin().sum(), wide)

        assert (found - exact).norm() < 1e-2 * exact.norm()
        assert all((a - b).norm() < 3e-2 * b.norm() for a, b in zip(ours, theirs, strict=True))


def test_both_kernels_run_a_race() -> None:
    (pack,) = pack_rows([(1,) * 2048 + (k,) * 704 for k in range(2, 18)], token_budget=10**6)
    plan = TreePlan(segments=pack.segments(), device=torch.device("cuda"), kernel="paths")

    assert faster_mode(plan, Heads(queries=16, keys=2, size=128), torch.bfloat16) in ("tree", "flex")
