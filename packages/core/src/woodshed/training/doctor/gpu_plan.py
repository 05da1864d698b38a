"""How much of a GPU vLLM and the trainer each get: figures of a model and a card → a plan. Pure.

The figures of a model are exact; what vLLM, the trainer and a step take beside the weights are estimates, on the large
side. A step itself measures what it needs and cuts its batch to fit (`engine/trainer/memory.py`), so a plan that is off
costs time and no run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from woodshed.engine.client.config import GpuSharing

_MIB = 2**20
_BYTES = 2
"""Of a weight in bfloat16."""
_VLLM_MB = 2048.0
"""What vLLM takes beside weights and KV cache: CUDA context, CUDA graphs, the activations of its largest batch."""
_ASLEEP_MB = 1280.0
"""What of that a vLLM that sleeps keeps: context and graphs."""
_TRAINER_MB = 1024.0
"""What the trainer keeps all the time beside weights, LoRA and optimizer: CUDA context, compiled kernels."""
WANTED_KV_TOKENS = 64 * 8192
"""Tokens of the conversations that vLLM decodes at once by default, if each has 8,192."""
_USABLE = 0.7
"""Share of the free memory that a step plans with (`engine/trainer/memory.py`)."""
_BACKWARD = 1.25
"""Peak of a backward pass, relative to what the forward pass kept (`engine/trainer/memory.py`)."""
_STATES_PER_LAYER = 16
"""Hidden states, in widths of the model, that a layer keeps of each position for its backward pass. With it, two steps
of a 0.5B model that were measured on a card (5.8 and 16.0 GB) come out at 5.2 and 17.1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFigures:
    """What a model takes of a GPU's memory, in MiB."""

    weights_mb: float
    lora_mb: float
    """Of one LoRA in bfloat16, on every projection."""
    kv_mb_per_token: float
    step_mb_per_token: float
    """Kept of each position by a forward pass that is trained, and its share of the logits."""
    checkpointed_mb_per_token: float
    """The same, if every layer is computed twice instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuPlan:
    """One way to share a card, in MiB and tokens."""

    sharing: GpuSharing
    gpu_memory_fraction: float
    """For `ServedModel.gpu_memory_fraction`; 0 where the model does not fit."""
    kv_tokens: int
    """Tokens of all conversations at once that vLLM has room for."""
    step_mb: float
    """Free for what a step computes."""
    step_tokens: int
    """Longest pack of rollouts that a step takes at once without computing its layers twice."""
    longest_tokens: int
    """Longest rollout that can be trained at all, with its layers computed twice."""

    def fits(self, longest: int) -> bool:
        """Whether a conversation of `longest` tokens can be sampled and trained."""
        return self.gpu_memory_fraction > 0 and min(self.kv_tokens, self.longest_tokens) >= longest


def figures_of(config: Mapping[str, Any], *, lora_rank: int) -> ModelFigures:
    """Return the figures of a model, from its `config.json`: a dense decoder of the Llama and Qwen kind.

    Raises:
        KeyError: The config names no sizes of such a model.
    """
    hidden, layers, wide = (int(config[k]) for k in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    heads, words = int(config["num_attention_heads"]), int(config["vocab_size"])
    head = int(config.get("head_dim") or hidden // heads)
    kv = int(config.get("num_key_value_heads") or heads) * head
    projections = ((hidden, heads * head), (hidden, kv), (hidden, kv), (heads * head, hidden)) + ((hidden, wide),) * 3
    per_layer = sum(i * o for i, o in projections) + 2 * hidden
    tables = words * hidden * (1 if config.get("tie_word_embeddings") else 2)
    states = _STATES_PER_LAYER * hidden * _BYTES
    logits = 4 * words  # in float32
    return ModelFigures(
        weights_mb=_BYTES * (layers * per_layer + tables + hidden) / _MIB,
        lora_mb=_BYTES * layers * lora_rank * sum(i + o for i, o in projections) / _MIB,
        kv_mb_per_token=2 * _BYTES * layers * kv / _MIB,
        step_mb_per_token=_BACKWARD * (layers * states + logits) / _MIB,
        checkpointed_mb_per_token=_BACKWARD * (layers * hidden * _BYTES + states + logits) / _MIB,
    )


def plan(
    figures: ModelFigures, *, total_mb: float, free_mb: float, sharing: GpuSharing, kv_tokens: int = WANTED_KV_TOKENS
) -> GpuPlan:
    """Return how vLLM and the trainer share a card.

    With `split`, the KV cache gets at most half of what is left after both have loaded the model, and a step the rest.
    With `sleep` each has nearly all of the card in its turn.

    Args:
        figures: The model that is served and trained.
        total_mb: Memory of the card.
        free_mb: What of it nobody uses before the engine starts.
        sharing: How it is shared.
        kv_tokens: Tokens that a KV cache has use for: of all conversations at once.
    """
    vllm_mb = figures.weights_mb + _VLLM_MB
    adam_mb = 8 * figures.lora_mb  # weights, gradient and two moments, in float32
    trainer_mb = figures.weights_mb + adam_mb + _TRAINER_MB
    wanted_mb = kv_tokens * figures.kv_mb_per_token
    if sharing == "split":
        left = free_mb - vllm_mb - trainer_mb
        kv_mb = min(left / 2, wanted_mb)
        step_mb = left - kv_mb
    else:
        kv_mb = min(free_mb - vllm_mb - adam_mb - _TRAINER_MB, wanted_mb)
        step_mb = free_mb - _ASLEEP_MB - trainer_mb
    fraction = int(100 * (vllm_mb + kv_mb) / total_mb) / 100 if min(kv_mb, step_mb) > 0 else 0.0
    kv_mb, step_mb = max(0.0, kv_mb), max(0.0, step_mb)
    return GpuPlan(
        sharing=sharing,
        gpu_memory_fraction=fraction,
        kv_tokens=int(kv_mb / figures.kv_mb_per_token),
        step_mb=step_mb,
        step_tokens=int(_USABLE * step_mb / figures.step_mb_per_token),
        longest_tokens=int(_USABLE * step_mb / figures.checkpointed_mb_per_token),
    )


def config_of(model: str) -> Mapping[str, Any] | None:
    """Return a model's `config.json`, of a folder or of a hub name that this machine has fetched before; else None."""
    file = Path(model).expanduser() / "config.json"
    if not file.is_file():
        cached = _cached(model)
        if cached is None:
            return None
        file = cached
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _cached(model: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
