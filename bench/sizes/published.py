"""Shapes of published models, from their config.json."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """A decoder's sizes."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool
    """Whether the output head is the embedding."""

    def parameters(self) -> int:
        """Return how many weights it has, without norms and biases."""
        head_dim = self.hidden // self.heads
        attention = self.hidden * head_dim * (2 * self.heads + 2 * self.key_heads)
        layer = attention + 3 * self.hidden * self.intermediate
        return self.layers * layer + self.hidden * self.vocabulary * (1 if self.tied else 2)

    def kv_bytes(self, width: int) -> int:
        """Return the bytes that one token takes in the engine's KV cache, at `width` bytes a number."""
        return 2 * self.layers * self.key_heads * (self.hidden // self.heads) * width


POLICIES = {
    "135M": Published(576, 30, 1536, 9, 3, 49152, tied=True),  # SmolLM2-135M
    "0.5B": Published(896, 24, 4864, 14, 2, 151936, tied=True),  # Qwen2.5-0.5B
    "3B": Published(2048, 36, 11008, 16, 2, 151936, tied=True),  # Qwen2.5-3B
    "7B": Published(3584, 28, 18944, 28, 4, 152064, tied=False),  # Qwen2.5-7B
}
