"""The GRPO family as one pure function over the tokens of a batch, or of any part of it.

The engine's log-probabilities are the old log-probabilities, so the importance ratio, exp(new - old), already holds
both corrections there are: policy staleness and the mismatch between engine and trainer. No second weight is applied;
a correction only bounds the one there is.

Per trained token, with advantage A, ratio r (of the token, or of its rollout: the geometric mean) and weight w, which
is r or R (the product over the rollout), bounded as the correction says:

    clip        A > 0 and r > 1+h, or A < 0 and r < 1-l: no gradient, the step already went far enough (PPO's clip);
                otherwise gradient A · w · ∇ new
    detached    gradient A · clamp(r, 1-l, 1+h) · ∇ new, for every token
    gate        gradient A · 4 σ(τ(r-1)) (1 - σ(τ(r-1))) · r · ∇ new

The clip bounds one side only: where A < 0, PPO lets the ratio grow without limit, and one token the engine thought
impossible could own the step. That is the side on which the cap acts (and on both, where C < 1+h). A truncated token
keeps a gradient of weight C; it does not lose it, as it would under a second clip.

Shapes: M tokens, R rollouts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from woodshed.loss.metrics import TokenStats
from woodshed.loss.presets import LossTerms, loss_terms
from woodshed.types import LossSettings

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pull:
    """What is maximised, token by token, before advantage and normalizer."""

    surrogate_M: Tensor
    clipped_M: Tensor
    truncated_M: Tensor


def grpo_loss(
    new_logprobs_M: Tensor,
    old_logprobs_M: Tensor,
    trained_M: Tensor,
    rollout_of_M: Tensor,
    advantages_M: Tensor,
    tokens_of_R: Tensor,
    *,
    totals: BatchTotals,
    settings: LossSettings,
    log_ratio_of_R: Tensor | None = None,
    base_logprobs_M: Tensor | None = None,
    entropies_M: Tensor | None = None,
) -> LossOut:
    """Return the share of the batch's loss that comes from these tokens.

    The normalizers are those of the whole batch, so the losses and gradients of micro-batches, however cut, add up
    to those of the batch in one piece. Whatever stands at untrained positions (NaN too) changes nothing.

    Args:
        new_logprobs_M: The trainer's log-probabilities, with gradient.
        old_logprobs_M: The engine's.
        trained_M: True where the policy sampled the token.
        rollout_of_M: Which rollout a token belongs to, also over several rows of it.
        advantages_M: Advantage of each token: its rollout's, or that of the role it spoke in.
        tokens_of_R: Trained tokens of each rollout in the whole batch.
        totals: Counts of the whole batch.
        settings: Preset and its numbers.
        log_ratio_of_R: `log_ratio_sums` of each rollout in the whole batch, for losses that are `by_sequence`; None
            where the tokens given hold every rollout whole.
        base_logprobs_M: The base model's, for the KL term.
        entropies_M: The policy's entropy at each token, with gradient, for the entropy bonus.
    """
    terms = loss_terms(settings)
    precise = torch.promote_types(new_logprobs_M.dtype, torch.float32)
    # Zero untrained positions before exp(): a NaN there survives a later multiplication by the mask.
    new_M = torch.where(trained_M, new_logprobs_M.to(precise), 0.0)
    old_M = torch.where(trained_M, old_logprobs_M.to(precise), 0.0)
    advantage_M = torch.where(trained_M, advantages_M.to(precise), 0.0)
    weight_M = torch.where(trained_M, token_weights(rollout_of_M, tokens_of_R, totals, terms).to(precise), 0.0)
    log_ratio_M = (new_M - old_M).detach()
    sequence_M = None
    if terms.by_sequence:
        sums_R = log_ratio_of_R
        if sums_R is None:
            sums_R = log_ratio_sums(new_logprobs_M, old_logprobs_M, trained_M, rollout_of_M, len(tokens_of_R))
        sequence_M = sums_R.to(precise)[rollout_of_M]
    pull = _pull(new_M, log_ratio_M, sequence_M, advantage_M, tokens_of_R[rollout_of_M], terms)
    loss = -(pull.surrogate_M * advantage_M * weight_M).sum()
    stats = _stats(log_ratio_M, old_M, trained_M, pull)
    if terms.kl_coef:
        kl_M = _base_kl(new_M, base_logprobs_M, trained_M)
        loss = loss + terms.kl_coef * (kl_M * weight_M).sum()
        stats += TokenStats(base_kl_sum=kl_M.detach().sum().item())
    if terms.entropy_coef:
        assert entropies_M is not None, "an entropy bonus needs the policy's entropies"
        bonus = torch.where(trained_M, entropies_M.to(precise), 0.0).sum()
        loss = loss - terms.entropy_coef * bonus / totals.tokens
        stats += TokenStats(entropy_sum=bonus.item())
    return LossOut(loss=loss, stats=stats)


def log_ratio_sums(new_M: Tensor, old_M: Tensor, trained_M: Tensor, rollout_of_M: Tensor, rollouts: int) -> Tensor:
    """Return each rollout's sum of log ratios over the tokens given; the sums of micro-batches add up."""
    log_ratio_M = torch.where(trained_M, (new_M - old_M).detach().double(), 0.0)
    return torch.zeros(rollouts, dtype=torch.double, device=new_M.device).index_add(0, rollout_of_M, log_ratio_M)


def token_weights(rollout_of_M: Tensor, tokens_of_R: Tensor, totals: BatchTotals, terms: LossTerms) -> Tensor:
    """Return what each token's surrogate is multiplied by.

    `rollout_mean`: mean over a rollout's tokens, then over rollouts, so an agent that made twelve calls counts once.
    `constant_length`: one over rollouts times a constant. `batch_tokens`: one over all trained tokens of the batch.
    """
    match terms.normalizer:
        case "rollout_mean":
            return 1.0 / (tokens_of_R.double()[rollout_of_M] * totals.rollouts)
        case "constant_length":
            return torch.full_like(rollout_of_M, 1.0 / (totals.rollouts * terms.constant_length), dtype=torch.double)
        case "batch_tokens":
            return torch.full_like(rollout_of_M, 1.0 / totals.tokens, dtype=torch.double)


def _pull(
    new_M: Tensor,
    log_ratio_M: Tensor,
    sequence_M: Tensor | None,
    advantage_M: Tensor,
    tokens_M: Tensor,
    terms: LossTerms,
) -> _Pull:
    log_M = log_ratio_M
    if terms.ratio_level == "sequence" and sequence_M is not None:
        log_M = sequence_M / tokens_M
    one_M = 1 + new_M - new_M.detach()
    ratio_M = log_M.exp()
    nowhere_M = torch.zeros_like(ratio_M, dtype=torch.bool)
    if terms.surrogate == "detached":
        bounded_M = log_M.clamp(max=math.log(terms.high)).exp().clamp(min=terms.low)
        changed_M = (ratio_M > terms.high) | (ratio_M < terms.low)
        return _Pull(surrogate_M=bounded_M * new_M, clipped_M=changed_M, truncated_M=nowhere_M)
    if terms.surrogate == "gate":
        # Far beyond where the gate is shut: keeps 0 · ∞ out of its gradient.
        open_M = log_M.clamp(max=_LOG_RATIO_SHOWN_AT_MOST).exp() * one_M
        heat_M = torch.where(advantage_M > 0, *log_M.new_tensor([terms.gate_positive, terms.gate_negative]))
        gate_M = torch.sigmoid(heat_M * (open_M - 1)) * 4 / heat_M
        return _Pull(surrogate_M=gate_M, clipped_M=nowhere_M, truncated_M=nowhere_M)
    clipped_M = ((advantage_M > 0) & (ratio_M > terms.high)) | ((advantage_M < 0) & (ratio_M < terms.low))
    bounded_M, cut_M = _bounded(log_M if sequence_M is None or terms.ratio_level == "sequence" else sequence_M, terms)
    shut_M = ratio_M.clamp(terms.low, terms.high)
    if terms.correction == "token_truncate":
        shut_M = shut_M.clamp(max=terms.cap)
    # Value w, gradient w · ∇ new.
    return _Pull(
        surrogate_M=torch.where(clipped_M, shut_M, bounded_M * one_M),
        clipped_M=clipped_M,
        truncated_M=cut_M & ~clipped_M,
    )


def _bounded(log_M: Tensor, terms: LossTerms) -> tuple[Tensor, Tensor]:
    """Return the importance weight whose logarithm is given, as the correction bounds it, and where it did."""
    top = math.log(terms.cap)
    if terms.correction == "none":
        return log_M.exp(), torch.zeros_like(log_M, dtype=torch.bool)
    if terms.correction.endswith("truncate"):
        # Cut the logarithm, not the ratio: an overflowing ratio times its own inverse is NaN.
        return log_M.clamp(max=top).exp(), log_M > top
    outside_M = (log_M > top) | (log_M < -top)
    return torch.where(outside_M, 0.0, log_M.clamp(max=top).exp()), outside_M


def _base_kl(new_M: Tensor, base_logprobs_M: Tensor | None, trained_M: Tensor) -> Tensor:
    """Return exp(base - new) - (base - new) - 1, an estimate of KL(policy || base) that is never negative."""
    assert base_logprobs_M is not None, "a KL term needs the base model's log-probabilities"
    away_M = torch.where(trained_M, base_logprobs_M.to(new_M.dtype), 0.0) - new_M
    return away_M.exp() - away_M - 1


def _stats(log_ratio_M: Tensor, old_M: Tensor, trained_M: Tensor, pull: _Pull) -> TokenStats:
    if not trained_M.any():
        return TokenStats()
    log_M, old_M = log_ratio_M[trained_M].double(), old_M[trained_M].detach().double()
    shown_M = log_M.clamp(max=_LOG_RATIO_SHOWN_AT_MOST)
    ratio_M = shown_M.exp()
    figures = torch.stack([
        torch.tensor(float(log_M.numel()), dtype=torch.double, device=log_M.device),
        ratio_M.sum(),
        ratio_M.max(),
        pull.clipped_M[trained_M].sum().double(),
        pull.truncated_M[trained_M].sum().double(),
        (ratio_M - 1 - shown_M).sum(),
        log_M.abs().sum(),
        log_M.abs().max(),
        -old_M.sum(),
    ]).tolist()  # one transfer from the device  # fmt: skip
    names = (
        "tokens", "ratio_sum", "ratio_max", "clipped", "truncated", "kl_sum", "drift_sum", "drift_max", "surprise_sum",
    )  # fmt: skip
    return TokenStats(**dict(zip(names, figures, strict=True)))
