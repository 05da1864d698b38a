"""On a GPU, too, compiled kernels and every chunk of the head give the same; needs nothing but pytest."""

from __future__ import annotations

import copy

import pytest
import torch
from random_trees import ARCHITECTURES, model, packed, tree

from woodshed.engine.trainer import layer_race
from woodshed.engine.trainer.attention.kernels import compiled
from woodshed.engine.trainer.forward import Kernels, use_kernels
from woodshed.engine.trainer.kernel_race import Heads
from woodshed.engine.trainer.layer_race import _Shapes, _why_not, choose_kernels
from woodshed.loss.head import token_logprobs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
HEADS = [(4, 2, 8), (14, 2, 64), (9, 3, 64), (16, 2, 128), (32, 8, 128)]


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_kernels_stray_no_further_from_fp32_than_plain_ones(
    heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    queries, keys, size = heads
    shapes = _Shapes(heads=Heads(queries=queries, keys=keys, size=size), width=4864, dtype=dtype)

    assert _why_not(compiled(), shapes, CUDA) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_compiled_strays_no_further_than_row_by_row_and_compiles_nothing_after_the_second_step(
    architecture: str,
) -> None:
    of = copy.deepcopy(model(architecture)).to(CUDA)
    for name, parameter in of.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    whole = copy.deepcopy(of).float()
    use_kernels(of, Kernels(layer="compile"))
    strayed, made = {"tree": 0.0, "rows": 0.0}, []
    for seed in range(8):
        _, exact = packed(whole, tree(seed), "rows", 10_000, device=CUDA)
        for mode in ("tree", "rows"):
            _, gradient = packed(of, tree(seed), mode, 10_000, device=CUDA)
            strayed[mode] += float((gradient - exact).norm() / exact.norm()) / 8
        made.append(int(torch._dynamo.utils.counters["stats"]["unique_graphs"]))

    assert 0 < strayed["tree"] <= 1.5 * strayed["rows"]
    assert made[1:] == [made[1]] * 7


def test_norm_is_one_kernel_forward_and_few_backward() -> None:
    from torch.profiler import ProfilerActivity, profile

    from woodshed.engine.trainer.attention.kernels import rms_norm

    x = torch.randn(512, 896, device=CUDA, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.ones(896, device=CUDA, dtype=torch.bfloat16)
    rms_norm(x, weight, 1e-6).sum().backward()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        rms_norm(x, weight, 1e-6)
        torch.cuda.synchronize()

    assert sum(event.count for event in seen.key_averages() if event.device_time_total > 0) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_chunk_of_the_head_gives_the_same(dtype: torch.dtype) -> None:
    draw = torch.Generator(CUDA).manual_seed(0)
    states = torch.randn(3000, 64, device=CUDA, generator=draw).to(dtype)
    weight = torch.randn(150_000, 64, device=CUDA, generator=draw).to(dtype)
    every = torch.arange(3000, device=CUDA)
    found = []
    for chunk in layer_race._CHUNKS:
        given = states.detach().requires_grad_()
        logprobs, _ = token_logprobs(given, weight, torch.ones(3000, device=CUDA), every, every, chunk_logits=chunk)
        found.append((logprobs, *torch.autograd.grad(logprobs.sum(), given)))
    first = found[0]

    # Another shape may take another kernel, which adds up in another order.
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for other in found[1:]:
        assert all(
            (a.float() - b.float()).norm() <= tolerance * b.float().norm() for a, b in zip(other, first, strict=True)
        )


def test_a_choice_is_made_and_has_no_warning() -> None:
    of = copy.deepcopy(model("qwen2")).to(CUDA).bfloat16()
    choice = choose_kernels("auto", of, "tree")

    assert choice.warning is None
    assert choice.kernels.layer in ("plain", "compile")
