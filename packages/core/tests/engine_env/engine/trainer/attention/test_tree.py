"""Promises of packing in the model: random trees give the log-probabilities and gradients of one row at a time.

Three architectures, the tree mode and the dense one, with and without checkpointing.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from woodshed.engine.trainer.attention import attention_plan
from woodshed.engine.trainer.attention import tree as tree_module
from woodshed.engine.trainer.attention.kernels import lora_linear
from woodshed.engine.trainer.attention.tree import TreePlan, tree_attention
from woodshed.engine.trainer.forward import ForwardMode, TrainingRow, forward_logprobs, micro_batches
from woodshed.engine.trainer.forward_mode import choose_forward_mode
from woodshed.tokens import Row, pack_rows

CPU = torch.device("cpu")
VOCABULARY = 61
ARCHITECTURES = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
Rows = list[TrainingRow]


@cache
def model(architecture: str) -> Any:
    """Return a tiny random model whose attention and whole LoRA matter."""
    config = ARCHITECTURES[architecture](
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, tie_word_embeddings=architecture != "llama",
        initializer_range=0.15,
    )  # fmt: skip
    torch.manual_seed(0)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    return get_peft_model(AutoModelForCausalLM.from_config(config), lora).eval()


def tree(seed: int) -> Rows:
    """Return rows that grow from each other's prefixes, each trained at random tokens, at one of two temperatures."""
    draw = random.Random(seed)
    rows: Rows = []
    for number in range(draw.randint(1, 7)):
        known = draw.choice(rows).row.token_ids if rows and draw.random() < 0.8 else ()
        ids = known[: draw.randint(0, len(known))] + tuple(draw.randrange(4) for _ in range(draw.randint(2, 12)))
        trained = [False] + [draw.random() < 0.6 for _ in ids[1:]]
        trained[-1] = True
        at = [t or None for t in trained]
        rows.append(
            TrainingRow(
                row=Row(
                    token_ids=ids,
                    trained=tuple(trained),
                    logprobs=tuple(t and -1.0 for t in at),
                    weight_versions=tuple(t and 0 for t in at),
                    temperatures=tuple(t and draw.choice((1.0, 0.7)) for t in at),
                    call_ids=tuple(t and "c" for t in at),
                ),
                rollout=number,
                advantages=[0.0] * len(ids),
            )
        )
    return rows


def worth(rollout_of_M: Tensor, token_M: Tensor) -> Tensor:
    """Return a weight for each trained token that depends on what it is, not on where it lies."""
    return torch.sin(1.0 + 3.0 * rollout_of_M + token_M)


def packed(
    of: Any, rows: Rows, mode: ForwardMode, budget: int, checkpointed: bool = False
) -> tuple[list[float], Tensor]:
    """Return sorted log-probabilities with their rollouts, and the gradient."""
    of.zero_grad()
    found: list[tuple[int, float]] = []
    for batch in micro_batches(rows, token_budget=budget, mode=mode, device=CPU):
        logprobs_M = forward_logprobs(of, batch, mode, checkpointed=checkpointed).logprobs_M
        (logprobs_M * worth(batch.rollout_of_M, batch.token_M)).sum().backward()
        found += zip(batch.rollout_of_M.tolist(), logprobs_M.tolist(), strict=True)
    return [logprob for _, logprob in sorted(found)], gradient(of)


def one_at_a_time(of: Any, rows: Rows) -> tuple[list[float], Tensor]:
    """Return the same by a plain forward pass a row, with a full softmax."""
    of.zero_grad()
    found: list[tuple[int, float]] = []
    for given_row in rows:
        row = given_row.row
        logits = of(input_ids=torch.tensor([row.token_ids])).logits[0]
        at = [k for k, is_trained in enumerate(row.trained) if is_trained]
        heat = torch.tensor([row.temperatures[k] for k in at])
        tokens = torch.tensor([row.token_ids[k] for k in at])
        every = (logits[[k - 1 for k in at]] / heat[:, None]).log_softmax(-1)
        logprobs = every[torch.arange(len(at)), tokens]
        (logprobs * worth(torch.full_like(tokens, given_row.rollout), tokens)).sum().backward()
        found += [(given_row.rollout, logprob) for logprob in logprobs.tolist()]
    return [logprob for _, logprob in sorted(found)], gradient(of)


def gradient(of: Any) -> Tensor:
    return torch.cat([p.grad.flatten() for p in of.parameters() if p.grad is not None])


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
    assert choose_forward_mode(of, VOCABULARY, CPU) == "tree"
    assert 0 < strayed["tree"] <= 1.5 * strayed["rows"] < 0.05


@pytest.mark.parametrize("out", [16, 40])
def test_linear_layer_in_half_precision_is_that_of_fp32_but_for_rounding(out: int) -> None:
    torch.manual_seed(0)
    x_ND = torch.randn(50, 24, dtype=torch.bfloat16, requires_grad=True)
    weight, bias = torch.randn(out, 24, dtype=torch.bfloat16), torch.randn(out, dtype=torch.bfloat16)
    down, up = torch.randn(4, 24, requires_grad=True), torch.randn(out, 4, requires_grad=True)
    given_to = torch.randn(50, out)
    found = lora_linear(x_ND, weight, bias, down, up, 0.5)
    ours = torch.autograd.grad((found * given_to).sum(), (x_ND, down, up))
    exact = x_ND.float() @ weight.float().t() + bias.float() + 0.5 * (x_ND.float() @ down.t()) @ up.t()
    theirs = torch.autograd.grad((exact * given_to).sum(), (x_ND, down, up))

    assert found.dtype == torch.bfloat16
    assert [g.dtype for g in ours] == [torch.bfloat16, torch.float32, torch.float32]
    assert (found - exact).norm() < 5e-3 * exact.norm()
    assert all((a - b).norm() < 8e-3 * b.norm() for a, b in zip(ours, theirs, strict=True))


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
    assert choose_forward_mode(model(architecture), VOCABULARY, CPU) == "tree"


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_trees_on_a_gpu_train_as_one_row_at_a_time(architecture: str) -> None:
    cuda = torch.device("cuda")
    of = model(architecture).to(cuda)
    try:
        for seed in range(8):
            rows = tree(seed)
            told_by: list[list[float]] = []
            grads: list[Tensor] = []
            for mode in ("tree", "rows"):
                of.zero_grad()
                found: list[tuple[int, float]] = []
                for batch in micro_batches(rows, token_budget=10_000, mode=mode, device=cuda):
                    logprobs_M = forward_logprobs(of, batch, mode).logprobs_M
                    (logprobs_M * worth(batch.rollout_of_M, batch.token_M)).sum().backward()
                    found += zip(batch.rollout_of_M.tolist(), logprobs_M.tolist(), strict=True)
                told_by.append([logprob for _, logprob in sorted(found)])
                grads.append(gradient(of))

            assert told_by[0] == pytest.approx(told_by[1], abs=2e-3)
            assert (grads[0] - grads[1]).norm() <= 5e-3 * grads[1].norm()
    finally:
        of.to("cpu")
