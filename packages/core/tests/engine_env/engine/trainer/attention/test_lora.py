"""Promises of linear layers in half precision: those of fp64 but for rounding, with few operators for each layer."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_trees import model, packed, tree
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Qwen2Config

from woodshed.engine.trainer.attention.decoder import decoder_layers
from woodshed.engine.trainer.attention.lora import (
    GROUPS,
    GROUPS_OF_FEW_QUERIES,
    half_loras,
    is_plain_lora,
    linears,
    module_of,
)

EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def half(layers: int, targets: list[str], dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return a random Qwen2 in half precision, whose biases matter, with a LoRA in fp32 of two ranks."""
    config = Qwen2Config(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.15,
    )  # fmt: skip
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=6, rank_pattern={targets[1]: 2}, target_modules=targets, init_lora_weights=False)
    of = get_peft_model(AutoModelForCausalLM.from_config(config), lora).eval()
    for name, parameter in of.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
        if "lora" not in name:
            parameter.data = parameter.data.to(dtype)
    return of


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("groups", [GROUPS, GROUPS_OF_FEW_QUERIES], ids=["all queries", "few queries"])
@pytest.mark.parametrize("targets", [EVERY, ["q_proj", "v_proj", "up_proj"]], ids=["all", "some"])
def test_linear_layers_in_half_precision_are_those_of_fp64_but_for_rounding(
    targets: list[str], groups: tuple[tuple[str, ...], ...], dtype: torch.dtype
) -> None:
    (layer,) = decoder_layers(half(1, targets, dtype))
    exact = copy.deepcopy(layer).double()
    (loras,) = half_loras([layer], [groups])

    assert set(loras) == {names for names in groups if set(names) & set(targets)}
    for names in groups:
        modules, wide_modules = ([module_of(of, name) for name in names] for of in (layer, exact))
        draw = torch.Generator().manual_seed(1)
        x = torch.randn(50, modules[0].in_features, generator=draw).to(dtype).requires_grad_()
        wide = x.detach().double().requires_grad_()
        found, expected = linears(modules, x, loras.get(names)), [module(wide) for module in wide_modules]
        trained, wide_trained = (
            [p for module in of for p in module.parameters() if p.requires_grad] for of in (modules, wide_modules)
        )
        worth = [torch.randn(out.shape, generator=draw) for out in found]
        ours = torch.autograd.grad(
            sum((a * b).sum() for a, b in zip(found, worth, strict=True)), (x, *trained), retain_graph=True
        )
        theirs = torch.autograd.grad(
            sum((a * b).sum() for a, b in zip(expected, worth, strict=True)), (wide, *wide_trained)
        )

        assert [g.dtype for g in ours] == [dtype] + [torch.float32] * len(trained)
        assert all((a - b).norm() < 5e-3 * b.norm() for a, b in zip(found, expected, strict=True))
        assert all((a - b).norm() < 1e-2 * b.norm() for a, b in zip(ours, theirs, strict=True))


def test_matrix_that_is_more_than_a_frozen_one_with_a_lora_is_called_as_it_is() -> None:
    (layer,) = decoder_layers(half(1, EVERY))
    layer.mlp.up_proj.lora_dropout["default"] = torch.nn.Dropout(0.5).eval()
    (loras,) = half_loras([layer], [GROUPS])
    x = torch.randn(9, 32).bfloat16()
    gate, up = linears([layer.mlp.gate_proj, layer.mlp.up_proj], x, loras.get(GROUPS[2]))

    assert not is_plain_lora(layer.mlp.up_proj)
    assert set(loras) == {GROUPS[0], GROUPS[1], GROUPS[3]}
    assert torch.equal(gate, layer.mlp.gate_proj(x)) and torch.equal(up, layer.mlp.up_proj(x))


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[func.name().removeprefix("aten::").split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def operators_of_a_layer() -> Counter[str]:
    """Return the operators of one layer's forward and backward pass in bf16."""
    found = []
    for layers in (3, 5):
        of = half(layers, EVERY)
        packed(of, tree(3), "tree", 10_000)
        with _Operators() as operators:
            packed(of, tree(3), "tree", 10_000)
        found.append(operators.found)
    few, many = found
    return Counter({name: (many[name] - few[name]) // 2 for name in many})


@pytest.mark.usefixtures("over_paths")
def test_a_layer_in_half_precision_converts_no_lora_and_scales_no_activations() -> None:
    each = operators_of_a_layer()
    # Three matrices forward take two products each and share a thin one, and so on: docs/decisions/0019.
    products = sum(each[name] for name in ("mm", "addmm", "addmm_", "linear"))

    assert products <= 47
    # torch's norm on a CPU converts, and sums of gathered keys are in fp32; a matrix does neither.
    assert each["_to_copy"] <= 14
    assert each["mul_"] <= 4


def test_lora_in_the_precision_of_its_matrices_is_scaled_too() -> None:
    of = copy.deepcopy(model("qwen2")).bfloat16()
    layers = decoder_layers(of)
    loras = half_loras(layers, [GROUPS] * 3)
    module = layers[1].mlp.down_proj

    assert torch.equal(loras[1][("down_proj",)].ups_FS[0], 2.0 * module.lora_B["default"].weight)
    assert torch.equal(loras[1][("down_proj",)].down_RD, module.lora_A["default"].weight)
