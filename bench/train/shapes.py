"""The same model and the same tokens for every trainer that is measured."""

from __future__ import annotations

import random
from dataclasses import dataclass

RANK, ALPHA = 8, 16
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""Precision → dtype of the model's own weights; PEFT keeps the LoRA in fp32."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """Sizes of a random Qwen3."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_heads: int
    vocabulary: int


SHAPES = {256: Shape(256, 4, 768, 4, 2, 4096), 512: Shape(512, 8, 1536, 8, 4, 32768)}


@dataclass(frozen=True)
class Attempt:
    """One row of a rollout: a prompt, then pieces that alternately the policy sampled and a tool returned."""

    rollout: int
    prompt: tuple[int, ...]
    pieces: tuple[tuple[bool, tuple[int, ...]], ...]
    """For each piece, whether it was sampled, and its tokens."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Everything after the prompt."""
        return tuple(t for _, piece in self.pieces for t in piece)

    @property
    def sampled(self) -> tuple[int, ...]:
        """1 where a token after the prompt was sampled."""
        return tuple(int(s) for s, piece in self.pieces for _ in piece)


def shared(rollouts: int, vocabulary: int) -> list[Attempt]:
    """Return rollouts with 1,024 shared tokens and 256 of their own."""
    draw = random.Random(0)
    prompt = random_tokens(draw, vocabulary, 1024)
    return [Attempt(k, prompt, ((True, random_tokens(draw, vocabulary, 256)),)) for k in range(rollouts)]


def turns(rollouts: int, vocabulary: int) -> list[Attempt]:
    """Return rollouts of a planner with six turns and tool results between them, and of two sub-agents.

    The planner's system prompt and tools (700 tokens) and task (100) are the group's, as are the sub-agents' prompts
    (500 each); each sub-agent has its own instruction (30), and takes three turns.
    """
    draw = random.Random(1)
    system, *helpers = (random_tokens(draw, vocabulary, n) for n in (800, 500, 500))
    attempts = []
    for k in range(rollouts):
        attempts.append(Attempt(k, system, _conversation(draw, vocabulary, 6)))
        attempts += [
            Attempt(k, prompt, ((False, random_tokens(draw, vocabulary, 30)), *_conversation(draw, vocabulary, 3)))
            for prompt in helpers
        ]
    return attempts


def _conversation(draw: random.Random, vocabulary: int, count: int) -> tuple[tuple[bool, tuple[int, ...]], ...]:
    pieces: list[tuple[bool, tuple[int, ...]]] = []
    for _ in range(count):
        pieces += [(True, random_tokens(draw, vocabulary, 24)), (False, random_tokens(draw, vocabulary, 20))]
    return tuple(pieces[:-1])


def random_tokens(draw: random.Random, vocabulary: int, count: int) -> tuple[int, ...]:
    """Return `count` tokens, none of them a special one."""
    return tuple(draw.randrange(3, vocabulary) for _ in range(count))


CASES = {"shared": shared, "turns": turns}


def advantages(rollouts: int) -> list[float]:
    """Return alternating advantages that sum to zero."""
    return [0.5 if k % 2 else -0.5 for k in range(rollouts)]


def logprob(number: int) -> float:
    """Return the engine's log-probability of the number-th sampled token: near that of a random model."""
    return -8.3 - 0.5 * random.Random(number).random()


def make_model(shape: Shape, precision: str) -> object:
    """Return the random model, the same in every process."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(getattr(torch, DTYPES[precision]))
