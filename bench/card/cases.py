"""Models and groups of rollouts that every trainer on a card is measured with, and what one step of them computes."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
sys.path.insert(0, str(Path(__file__).parents[1] / "sizes"))
from published import POLICIES, Published
from shapes import Attempt, random_tokens

RANK, ALPHA = 16, 32.0
MODELS = {**POLICIES, "tiny": Published(128, 2, 256, 2, 1, 512, tied=True)}


@dataclass(frozen=True, slots=True)
class Case:
    """One group: what all rollouts share, and what each has of its own."""

    rollouts: int
    shared: int
    """Tokens of the prompt."""
    own: int
    """Tokens of one piece: an answer, or a tool's result."""
    pieces: int = 1
    """Answers and results by turns, an answer first and last."""

    def attempts(self, vocabulary: int) -> list[Attempt]:
        """Return the rollouts; those of a group are the same in every process."""
        draw = random.Random(0)
        prompt = random_tokens(draw, vocabulary, self.shared)
        return [
            Attempt(
                k, prompt, tuple((n % 2 == 0, random_tokens(draw, vocabulary, self.own)) for n in range(self.pieces))
            )
            for k in range(self.rollouts)
        ]

    def said(self) -> str:
        """Return it as a table shows it."""
        own = f"{self.own}" if self.pieces == 1 else f"{self.pieces} × {self.own}"
        return f"{self.rollouts} × ({self.shared:,} shared + {own})"


CASES = {
    "shared": Case(8, 1024, 256),
    "turns": Case(16, 2048, 64, 11),
    "tiny-shared": Case(4, 32, 8),
    "tiny-turns": Case(4, 32, 4, 5),
}


def make_model(shape: Published, device: str, dtype: Any) -> Any:
    """Return a random Qwen2 of a published shape, on its device."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
        max_position_embeddings=32_768, tie_word_embeddings=shape.tied,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def step_flops(shape: Published, attempts: list[Attempt], *, packed: bool) -> float:
    """Return the floating-point operations of a step's matrix products and attention.

    Frozen weights take two operations forward and two backward, for each weight and position. `packed`: a prompt that
    rollouts share is computed once. A query attends to its own path; masked pairs do not count.
    """
    tables = shape.hidden * shape.vocabulary
    weights = shape.parameters() - tables * (1 if shape.tied else 2)
    positions = pairs = predicting = 0
    for k, attempt in enumerate(attempts):
        before, own = len(attempt.prompt), len(attempt.tokens)
        predicting += sum(attempt.sampled)
        positions += own + (before if k == 0 or not packed else 0)
        pairs += own * before + own * (own + 1) // 2 + (before * (before + 1) // 2 if k == 0 or not packed else 0)
    attention = (2 + 5) * 2 * shape.layers * shape.hidden * pairs
    return 4.0 * weights * positions + 4.0 * tables * predicting + attention
