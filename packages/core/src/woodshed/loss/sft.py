"""Cross-entropy on given tokens: what a warm-up trains with, in place of a policy gradient.

Shapes: M tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sft_loss(logprobs_M: Tensor, weights_M: Tensor, *, tokens: int) -> Tensor:
    """Return the share of the batch's cross-entropy that comes from these tokens.

    One mean over all tokens of the batch, so the losses and gradients of micro-batches, however cut, add up to those of
    the batch in one piece.

    Args:
        logprobs_M: The trainer's log-probability of each given token, with gradient.
        weights_M: What each token counts; 1 for plain cross-entropy.
        tokens: Given tokens of the whole batch.
    """
    precise = torch.promote_types(logprobs_M.dtype, torch.float32)
    return -(logprobs_M.to(precise) * weights_M.to(precise)).sum() / tokens
