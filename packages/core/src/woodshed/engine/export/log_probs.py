"""Log-probabilities of given tokens, to compare one form of a model with another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_TOKENS = 64
"""Length of the made-up text that is used where there is no recorded one."""


def log_probs(model: Any, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return log p(token | those before it) of each token but the first, per text.

    Without texts one is made up, of token ids spread over the vocabulary.
    """
    return [_of_text(model, ids) for ids in texts or [_made_up(model.config.vocab_size)]]


def furthest(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return the largest difference of two results of `log_probs`; infinite where one is not finite."""
    largest = max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))
    return largest if largest == largest else float("inf")


def _of_text(model: Any, ids: Sequence[int]) -> Tensor:
    tokens = torch.tensor([list(ids)], device=model.device)
    with torch.no_grad():
        logits = model(tokens).logits[0, :-1].float()
    return torch.log_softmax(logits, dim=-1).gather(1, tokens[0, 1:, None])[:, 0].cpu()


def _made_up(vocabulary: int) -> list[int]:
    return [(k * 7919 + 13) % vocabulary for k in range(_TOKENS)]
