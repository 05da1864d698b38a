"""A GGUF file becomes a model folder once; a file that cannot says why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from woodshed.engine.client.config import ServedModel, check_model
from woodshed.engine.vllm.gguf import cache_folder, converted
from woodshed.errors import ConfigError, EngineError

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
TOKENS = ["<|end|>", *bytes_to_unicode().values(), "he", "ll", "hell", "hello"]
MERGES = ["h e", "l l", "he ll", "hell o"]
CONFIG = LlamaConfig(
    vocab_size=len(TOKENS), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, rms_norm_eps=1e-5,
)  # fmt: skip
# transformers' names of a layer's parts → GGUF's
PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WOODSHED_CACHE", str(tmp_path / "cache"))
    return cache_folder()


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG)


def write(
    file: Path, model: LlamaForCausalLM, *, architecture: str = "llama", template: str | None = TEMPLATE,
    change: Callable[[gguf.GGUFWriter], None] = lambda writer: None, tokenizer: bool = True,
) -> Path:  # fmt: skip
    """Write a model down as llama.cpp's converter does."""
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(CONFIG.vocab_size)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(TOKENS)
        writer.add_token_types([3, *[1] * (len(TOKENS) - 1)])
        writer.add_token_merges(MERGES)
        writer.add_eos_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    change(writer)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    for layer in range(CONFIG.num_hidden_layers):
        for part, name in PARTS.items():
            tensor = weights[f"model.layers.{layer}.{part}.weight"]
            heads = {"attn_q": CONFIG.num_attention_heads, "attn_k": CONFIG.num_key_value_heads}.get(name)
            writer.add_tensor(f"blk.{layer}.{name}.weight", _interleaved(tensor, heads) if heads else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _interleaved(weight: Any, heads: int) -> Any:
    """Return a projection's rows in GGUF's order: a head's halves woven into each other."""
    rows, columns = weight.shape
    return np.ascontiguousarray(
        weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def convert(file: Path) -> tuple[Path, list[str]]:
    told: list[str] = []
    (model,) = asyncio.run(converted([ServedModel(name="policy", path=str(file))], told.append))
    return Path(model.path), told


def test_a_gguf_file_becomes_the_same_model_with_its_tokenizer_and_template(
    tmp_path: Path, model: LlamaForCausalLM, cache: Path
) -> None:
    folder, told = convert(write(tmp_path / "tiny.gguf", model))

    again = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = torch.arange(32)[None]
    assert folder.parent == cache
    assert again.dtype == torch.float32
    assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert tokenizer.tokenize("hello hell") == ["hello", "Ġ", "hell"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "user: hello\n"
    assert told == [f"converting tiny.gguf (once; kept in {str(folder)!r})"]


def test_a_file_is_converted_once_wherever_it_lies(tmp_path: Path, model: LlamaForCausalLM, cache: Path) -> None:
    file = write(tmp_path / "tiny.gguf", model)
    first, _ = convert(file)
    second, told = convert(file.rename(tmp_path / "elsewhere.gguf"))

    assert (first, told) == (second, [])
    assert [entry.name for entry in cache.iterdir()] == [first.name]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"architecture": "nosuch"}, "cannot read its architecture 'nosuch'"),
        ({"tokenizer": False}, "it has no tokenizer"),
        ({"change": lambda writer: writer.add_uint16("split.count", 3)}, "it is one part of 3"),
    ],
    ids=["architecture", "tokenizer", "part"],
)
def test_a_file_that_cannot_be_converted_says_why_and_leaves_nothing(
    tmp_path: Path, model: LlamaForCausalLM, cache: Path, change: Any, expected: str
) -> None:
    with pytest.raises(EngineError, match=expected):
        convert(write(tmp_path / "tiny.gguf", model, **change))

    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("share", [0.02, 0.999])
def test_a_file_that_is_cut_short_says_so(tmp_path: Path, model: LlamaForCausalLM, cache: Path, share: float) -> None:
    file = write(tmp_path / "tiny.gguf", model)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])

    with pytest.raises(EngineError, match=r"cut short.*Fetch it again"):
        convert(file)

    assert list(cache.iterdir()) == []


def test_what_a_model_lacks_is_told(tmp_path: Path, model: LlamaForCausalLM) -> None:
    file = write(
        tmp_path / "tiny.gguf", model, template=None, change=lambda writer: writer.add_tokenizer_pre("martian")
    )
    _, told = convert(file)

    assert "it has no chat template" in told[1]
    assert "'martian' of splitting text" in told[2]


def test_a_path_that_is_no_gguf_file_is_refused_before_the_engine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pointer = tmp_path / "pointer.gguf"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")

    with pytest.raises(ConfigError, match="no GGUF file: it begins with b'vers'"):
        check_model(ServedModel(name="policy", path="~/pointer.gguf"))
    with pytest.raises(ConfigError, match=r"there is no file '~/nothing\.gguf'"):
        check_model(ServedModel(name="policy", path="~/nothing.gguf"))
