"""Cross-entropy on given tokens, with which a warm-up (supervised fine-tuning) trains instead of a policy gradient.

Shapes: M tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sft_loss(logprobs_M: Tensor, weights_M: Tensor, *, tokens: int) -> Tensor:
    """Return these tokens' share of the batch's cross-entropy (a scalar, in nats).

    The sum is divided by the tokens of the whole batch, so the losses and gradients of its micro-batches add up to
    those of the whole batch, however it is split.

    Args:
        logprobs_M: The trainer's log-probability of each given token, with gradient.
        weights_M: Weight of each token; 1 for plain cross-entropy.
        tokens: Number of given tokens in the whole batch.
    """
    precise = torch.promote_types(logprobs_M.dtype, torch.float32)
    return -(logprobs_M.to(precise) * weights_M.to(precise)).sum() / tokens
