"""Promises of the choice of a path: the fastest one that is exact for the model at hand."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from woodshed.engine.trainer import precision
from woodshed.engine.trainer.forward_mode import _probed, choose_forward_mode
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.types import OpenPolicy

CPU = torch.device("cpu")
VOCABULARY = 97


@pytest.fixture
def llama_like(model_path: str) -> Any:
    return LoraPolicy(model_path, OpenPolicy(name="p")).model


@pytest.fixture
def other_decoder() -> Any:
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, initializer_range=0.15,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["query_key_value"])).eval()


def test_llama_like_decoder_takes_the_tree(llama_like: Any) -> None:
    assert choose_forward_mode(llama_like, VOCABULARY, CPU).mode == "tree"


def test_probing_leaves_the_weights_as_they_were(llama_like: Any) -> None:
    before = [p.detach().clone() for p in llama_like.parameters()]
    choose_forward_mode(llama_like, VOCABULARY, CPU)

    assert all(torch.equal(a, b) for a, b in zip(before, llama_like.parameters(), strict=True))


@pytest.mark.parametrize(
    "setting", [{"layer_types": ["full_attention", "sliding_attention"]}, {"sliding_window": 64}], ids=str
)
def test_sliding_window_is_not_packed(llama_like: Any, setting: dict[str, Any]) -> None:
    for name, value in setting.items():
        setattr(llama_like.config, name, value)

    assert choose_forward_mode(llama_like, VOCABULARY, CPU).mode == "rows"


def test_rotation_that_depends_on_the_length_is_not_packed(llama_like: Any) -> None:
    llama_like.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4}

    assert choose_forward_mode(llama_like, VOCABULARY, CPU).mode == "rows"


def test_head_that_is_more_than_a_matrix_takes_the_mask(llama_like: Any) -> None:
    head = llama_like.get_base_model().lm_head
    head.bias = torch.nn.Parameter(torch.linspace(-2, 2, VOCABULARY), requires_grad=False)

    assert choose_forward_mode(llama_like, VOCABULARY, CPU).mode == "dense"


def test_layer_that_computes_something_else_takes_the_mask(llama_like: Any) -> None:
    for layer in llama_like.get_base_model().model.layers:
        mlp = layer.mlp.forward
        layer.mlp.forward = lambda x, mlp=mlp: 0.5 * mlp(x)

    assert choose_forward_mode(llama_like, VOCABULARY, CPU).mode == "dense"


def test_decoder_of_another_family_takes_the_mask(other_decoder: Any) -> None:
    assert choose_forward_mode(other_decoder, VOCABULARY, CPU).mode == "dense"


def test_model_whose_attention_ignores_the_mask_is_not_packed(other_decoder: Any) -> None:
    for layer in other_decoder.get_base_model().gpt_neox.layers:
        attend = layer.attention.forward
        layer.attention.forward = lambda *args, attend=attend, **kw: attend(*args, **{**kw, "attention_mask": None})

    assert choose_forward_mode(other_decoder, VOCABULARY, CPU).mode == "rows"


def test_forward_pass_that_makes_all_logits_is_cut_to_those_needed(llama_like: Any) -> None:
    causal = llama_like.get_base_model()
    plain = _probed(llama_like, VOCABULARY, "rows", CPU)
    forward = causal.forward
    causal.forward = lambda *args, logits_to_keep=0, **kw: forward(*args, **kw)

    assert _probed(llama_like, VOCABULARY, "rows", CPU) == pytest.approx(plain)


class TableRotation(torch.nn.Module):
    """A rotation as Unsloth's is: no call, but a table for all positions up to a length, for each GPU."""

    def __init__(self, plain: torch.nn.Module) -> None:
        super().__init__()
        self.plain, self.length = plain, 0

    def extend_rope_embedding(self, x: torch.Tensor, seq_len: int) -> None:
        self.length = max(seq_len, self.length)

    def get_cached(self, seq_len: int, device_index: int) -> tuple[torch.Tensor, ...]:
        assert (self.length, device_index) >= (seq_len, 0)
        found = self.plain(torch.zeros(1), torch.arange(self.length)[None])
        return tuple(x[0] for x in found)


def test_rotation_that_is_a_table_follows_the_tree(llama_like: Any) -> None:
    plain = _probed(llama_like, VOCABULARY, "tree", CPU)
    body = llama_like.get_base_model().model
    body.rotary_emb = TableRotation(body.rotary_emb)

    assert _probed(llama_like, VOCABULARY, "tree", CPU) == pytest.approx(plain)


def test_precision_is_the_one_that_trains_faster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # bfloat16 that is a little faster is not worth its 16 bits, and the log says what would be.
    for half_s, expected in ((0.1, torch.bfloat16), (0.86, torch.float32), (0.34, torch.float32)):
        precision.faster_dtype.cache_clear()
        monkeypatch.setattr(
            precision, "_seconds", lambda _, tensors, s=half_s: s if tensors[0].dtype == torch.bfloat16 else 1.0
        )
        with caplog.at_level(logging.INFO, "woodshed.trainer"):
            assert precision.faster_dtype("cpu") == expected
        said = f"training in {expected}: on cpu a layer takes 1000.0 ms in fp32, {1e3 * half_s:.1f} in bf16"
        assert f"{said}, and bf16 is used if it is at least 3.0 times as fast" in caplog.text
    precision.faster_dtype.cache_clear()
