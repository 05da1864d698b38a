"""GRPO as one pure function over the tokens of a batch, or of any part of it.

The engine's log-probabilities are the old log-probabilities, so the importance ratio, exp(new - old), already holds
both corrections there are: policy staleness and the mismatch between engine and trainer. No second weight is applied.

Per trained token, with advantage A, clip bounds 1-l and 1+h, and cap C (truncated importance sampling):

    A > 0 and ratio > 1+h, or A < 0 and ratio < 1-l     no gradient: the step already went far enough (PPO's clip)
    otherwise                                           gradient  A · min(ratio, C) · ∇ new

The clip bounds one side only: where A < 0, PPO lets the ratio grow without limit, and one token the engine thought
impossible could own the step. That is the side on which the cap acts (and on both, where C < 1+h). A capped token keeps
a gradient of weight C; it does not lose it, as it would under a second clip.

Shapes: M tokens, R rollouts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from etude.loss.metrics import TokenStats
from etude.loss.presets import PRESETS
from etude.types import LossSettings

_LOG_RATIO_SHOWN_AT_MOST = 20.0
"""Keeps the figures finite for a token the engine thought impossible; its drift is shown uncut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTotals:
    """Counts of the whole batch of one optimizer step, the same for each of its micro-batches."""

    rollouts: int
    """Rollouts in the batch; those whose advantage is zero count."""
    tokens: int
    """Trained tokens of all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOut:
    """The loss of the tokens given, and what they look like."""

    loss: Tensor
    stats: TokenStats


def grpo_loss(
    new_logprobs_M: Tensor,
    old_logprobs_M: Tensor,
    trained_M: Tensor,
    rollout_of_M: Tensor,
    advantages_R: Tensor,
    tokens_of_R: Tensor,
    *,
    totals: BatchTotals,
    settings: LossSettings,
) -> LossOut:
    """Return the share of the batch's loss that comes from these tokens.

    The normalizers are those of the whole batch, so the losses and gradients of micro-batches, however cut, add up
    to those of the batch in one piece. Whatever stands at untrained positions (NaN too) changes nothing.

    Args:
        new_logprobs_M: The trainer's log-probabilities, with gradient.
        old_logprobs_M: The engine's.
        trained_M: True where the policy sampled the token.
        rollout_of_M: Which rollout a token belongs to, also over several rows of it.
        advantages_R: Advantage of each rollout.
        tokens_of_R: Trained tokens of each rollout in the whole batch.
        totals: Counts of the whole batch.
        settings: Preset, clip and cap.
    """
    preset = PRESETS[settings.preset]
    low = 1 - (preset.clip_low if settings.clip_low is None else settings.clip_low)
    high = 1 + (preset.clip_high if settings.clip_high is None else settings.clip_high)
    precise = torch.promote_types(new_logprobs_M.dtype, torch.float32)
    # Zero untrained positions before exp(): a NaN there survives a later multiplication by the mask.
    new_M = torch.where(trained_M, new_logprobs_M.to(precise), 0.0)
    old_M = torch.where(trained_M, old_logprobs_M.to(precise), 0.0)
    advantage_M = advantages_R.to(precise)[rollout_of_M]

    log_ratio_M = (new_M - old_M).detach()
    ratio_M = log_ratio_M.exp()
    clipped_M = ((advantage_M > 0) & (ratio_M > high)) | ((advantage_M < 0) & (ratio_M < low))
    # Cut the logarithm, not the ratio: an overflowing ratio times its own inverse is NaN.
    capped_M = log_ratio_M.clamp(max=math.log(settings.importance_cap)).exp()
    # Value min(ratio, C), gradient min(ratio, C) · ∇ new.
    open_M = capped_M * (1 + new_M - new_M.detach())
    surrogate_M = torch.where(clipped_M, ratio_M.clamp(low, high).clamp(max=settings.importance_cap), open_M)
    weight_M = torch.where(trained_M, token_weights(rollout_of_M, tokens_of_R, totals, settings).to(precise), 0.0)
    loss = -(surrogate_M * advantage_M * weight_M).sum()
    return LossOut(loss=loss, stats=_stats(log_ratio_M, old_M, trained_M, clipped_M, settings.importance_cap))


def token_weights(rollout_of_M: Tensor, tokens_of_R: Tensor, totals: BatchTotals, settings: LossSettings) -> Tensor:
    """Return what each token's surrogate is multiplied by.

    `grpo`: mean over a rollout's tokens, then mean over rollouts, so an agent that made twelve calls counts once.
    `dr_grpo`: one over rollouts times a constant length. `dapo`: one over all trained tokens of the batch.
    """
    match PRESETS[settings.preset].normalizer:
        case "rollout_mean":
            return 1.0 / (tokens_of_R.double()[rollout_of_M] * totals.rollouts)
        case "constant_length":
            return torch.full_like(rollout_of_M, 1.0 / (totals.rollouts * settings.constant_length), dtype=torch.double)
        case "batch_tokens":
            return torch.full_like(rollout_of_M, 1.0 / totals.tokens, dtype=torch.double)


def _stats(log_ratio_M: Tensor, old_M: Tensor, trained_M: Tensor, clipped_M: Tensor, cap: float) -> TokenStats:
    if not trained_M.any():
        return TokenStats()
    log_M, old_M, clipped_M = log_ratio_M[trained_M].double(), old_M[trained_M].detach().double(), clipped_M[trained_M]
    shown_M = log_M.clamp(max=_LOG_RATIO_SHOWN_AT_MOST)
    ratio_M = shown_M.exp()
    figures = torch.stack([
        torch.tensor(float(log_M.numel()), dtype=torch.double, device=log_M.device),
        ratio_M.sum(),
        ratio_M.max(),
        clipped_M.sum().double(),
        ((log_M > math.log(cap)) & ~clipped_M).sum().double(),
        (ratio_M - 1 - shown_M).sum(),
        log_M.abs().max(),
        -old_M.sum(),
    ]).tolist()  # one transfer from the device  # fmt: skip
    names = ("tokens", "ratio_sum", "ratio_max", "clipped", "truncated", "kl_sum", "drift_max", "surprise_sum")
    return TokenStats(**dict(zip(names, figures, strict=True)))
