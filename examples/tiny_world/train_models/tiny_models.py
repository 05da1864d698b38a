"""What both models share: architecture, learning-rate schedule, and saving them in a folder that vLLM can serve."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM


def new_model(
    *,
    vocabulary: int,
    layers: int,
    positions: int,
    hidden: int = 128,
    eos: int,
    pad: int,
    reach: float = 1e4,
    matcher: bool = False,
) -> Qwen3ForCausalLM:
    """Return a fresh model. Large initial weights let such a small model learn to copy within minutes.

    `reach` is the base of the rotary positions; a larger one lets attention match equal words farther apart.
    A `matcher` starts with attention that looks for equal words.
    """
    shape = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=32,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": reach},
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    model = Qwen3ForCausalLM(shape)
    for layer in model.model.layers if matcher else ():
        _start_as_a_matcher(layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight)
    return model


@torch.no_grad()
def _start_as_a_matcher(query: torch.Tensor, key: torch.Tensor) -> None:
    """Start every key head with the weights of the first query head that reads it."""
    head, heads = 32, key.shape[0] // 32
    group = query.shape[0] // key.shape[0]
    for number in range(heads):
        first = number * group * head
        key[number * head : (number + 1) * head] = query[first : first + head]


def learning_rate(peak: float, step: int, steps: int, warmup: int = 20) -> float:
    """Return the rate at `step`: a linear warm-up, then a cosine decay to 3 % of the peak."""
    return peak * min(1.0, (step + 1) / warmup) * (0.03 + 0.485 * (1 + math.cos(math.pi * step / steps)))


def pad_batch(rows: list[list[int]], pad: int) -> torch.Tensor:
    """Return the rows as one tensor, padded on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype) -> None:
    """Write config, tokenizer and weights, without sampling defaults: those are up to the caller."""
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    model.to(dtype).save_pretrained(folder)
    model.float()
    tokenizer.save_pretrained(folder)
    weight = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {weight:.1f} MB → {folder}")
