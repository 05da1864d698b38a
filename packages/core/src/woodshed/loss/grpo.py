"""The GRPO family of losses as one pure function over the tokens of a batch, or of any part of it.

GRPO: arXiv:2402.03300; the variants and their papers are in `presets.py`. The clip is that of PPO, arXiv:1707.06347.

The engine's log-probabilities serve as the old log-probabilities. So the importance ratio, exp(new - old), corrects for
both differences there are: the policy's staleness and the mismatch between engine and trainer. No second importance
weight is applied; a correction only bounds this one (truncated importance sampling, Ionides 2008).

Per trained token there are the advantage A, the ratio r (the token's, or the geometric mean over its rollout) and the
weight w (r, or the product of the ratios over the rollout, bounded by the correction). With l = `clip_low`,
h = `clip_high`, C = `importance_cap`, τ = the gate's temperature and σ the sigmoid, the surrogates are:

    clip        no gradient where A > 0 and r > 1+h, or A < 0 and r < 1-l: the policy has moved far enough;
                otherwise gradient A · w · ∇ new
    detached    gradient A · clamp(r, 1-l, 1+h) · ∇ new, for every token
    gate        gradient A · 4 σ(τ(r-1)) (1 - σ(τ(r-1))) · r · ∇ new

The clip bounds one side only: where A < 0, PPO lets the ratio grow without limit, and a single token that the engine
thought impossible could dominate the step. The cap C bounds that side (and both sides where C < 1+h). A truncated token
keeps a gradient of weight C; a second clip would remove it.

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

_MAX_REPORTED_LOG_RATIO = 20.0
"""Keeps the reported ratios finite for a token that the engine thought impossible; its drift is reported as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTotals:
    """Counts of the whole batch of one optimizer step, the same for each of its micro-batches."""

    rollouts: int
    """Rollouts in the batch; those whose advantage is zero count."""
    tokens: int
    """Trained tokens of all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOut:
    """The loss of the tokens given, and their statistics."""

    loss: Tensor
    stats: TokenStats


@dataclass(frozen=True, kw_only=True, slots=True)
class _Surrogate:
    """What is maximised for each token, before it is multiplied by the advantage and the normalizer."""

    value_M: Tensor
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
    """Return these tokens' share of the batch's loss, a scalar with gradient, and their statistics.

    The normalizers are those of the whole batch, so the losses and gradients of its micro-batches add up to those of
    the whole batch, however it is split. Values at untrained positions (NaN too) change nothing. Log-probabilities are
    in nats, at the temperature the token was sampled with; all is computed in fp32 or better.

    Args:
        new_logprobs_M: The trainer's log-probabilities, with gradient.
        old_logprobs_M: The engine's log-probabilities of the same tokens.
        trained_M: True where the policy sampled the token.
        rollout_of_M: Index of the rollout that a token belongs to; a rollout may have several rows.
        advantages_M: Advantage of each token: its rollout's, or its role's in the rollout.
        tokens_of_R: Trained tokens of each rollout in the whole batch.
        totals: Counts of the whole batch.
        settings: The preset and the numbers that differ from it.
        log_ratio_of_R: `log_ratio_sums` of each rollout in the whole batch, for losses that are `by_sequence`; None
            where the tokens given contain every rollout whole.
        base_logprobs_M: The base model's log-probabilities, for the KL term.
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
    surrogate = _surrogate(new_M, log_ratio_M, sequence_M, advantage_M, tokens_of_R[rollout_of_M], terms)
    loss = -(surrogate.value_M * advantage_M * weight_M).sum()
    stats = _stats(log_ratio_M, old_M, trained_M, surrogate)
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
    """Return each rollout's sum of log ratios over the tokens given (R, fp64); the sums of micro-batches add up."""
    log_ratio_M = torch.where(trained_M, (new_M - old_M).detach().double(), 0.0)
    return torch.zeros(rollouts, dtype=torch.double, device=new_M.device).index_add(0, rollout_of_M, log_ratio_M)


def token_weights(rollout_of_M: Tensor, tokens_of_R: Tensor, totals: BatchTotals, terms: LossTerms) -> Tensor:
    """Return the weight of each token's surrogate (M, fp64).

    `rollout_mean`: mean over a rollout's tokens, then over rollouts, so an agent that made twelve calls counts once
    (GRPO). `constant_length`: 1 / (rollouts · constant), as Dr. GRPO (arXiv:2503.20783). `batch_tokens`: 1 / all
    trained tokens of the batch, as DAPO (arXiv:2503.14476).
    """
    match terms.normalizer:
        case "rollout_mean":
            return 1.0 / (tokens_of_R.double()[rollout_of_M] * totals.rollouts)
        case "constant_length":
            return torch.full_like(rollout_of_M, 1.0 / (totals.rollouts * terms.constant_length), dtype=torch.double)
        case "batch_tokens":
            return torch.full_like(rollout_of_M, 1.0 / totals.tokens, dtype=torch.double)


def _surrogate(
    new_M: Tensor,
    log_ratio_M: Tensor,
    sequence_M: Tensor | None,
    advantage_M: Tensor,
    tokens_M: Tensor,
    terms: LossTerms,
) -> _Surrogate:
    log_M = log_ratio_M
    if terms.ratio_level == "sequence" and sequence_M is not None:
        log_M = sequence_M / tokens_M
    # Value 1, gradient ∇ new.
    unit_M = 1 + new_M - new_M.detach()
    ratio_M = log_M.exp()
    never_M = torch.zeros_like(ratio_M, dtype=torch.bool)
    if terms.surrogate == "detached":
        bounded_M = log_M.clamp(max=math.log(terms.high)).exp().clamp(min=terms.low)
        changed_M = (ratio_M > terms.high) | (ratio_M < terms.low)
        return _Surrogate(value_M=bounded_M * new_M, clipped_M=changed_M, truncated_M=never_M)
    if terms.surrogate == "gate":
        # The gate is closed long before this bound, which keeps 0 · ∞ out of the gradient.
        live_ratio_M = log_M.clamp(max=_MAX_REPORTED_LOG_RATIO).exp() * unit_M
        tau_M = torch.where(advantage_M > 0, *log_M.new_tensor([terms.gate_positive, terms.gate_negative]))
        gate_M = torch.sigmoid(tau_M * (live_ratio_M - 1)) * 4 / tau_M
        return _Surrogate(value_M=gate_M, clipped_M=never_M, truncated_M=never_M)
    clipped_M = ((advantage_M > 0) & (ratio_M > terms.high)) | ((advantage_M < 0) & (ratio_M < terms.low))
    bounded_M, cut_M = _bounded(log_M if sequence_M is None or terms.ratio_level == "sequence" else sequence_M, terms)
    at_bound_M = ratio_M.clamp(terms.low, terms.high)
    if terms.correction == "token_truncate":
        at_bound_M = at_bound_M.clamp(max=terms.cap)
    # Value w, gradient w · ∇ new.
    return _Surrogate(
        value_M=torch.where(clipped_M, at_bound_M, bounded_M * unit_M),
        clipped_M=clipped_M,
        truncated_M=cut_M & ~clipped_M,
    )


def _bounded(log_M: Tensor, terms: LossTerms) -> tuple[Tensor, Tensor]:
    """Return the importance weights exp(log_M) within the correction's bounds, and where a bound changed them."""
    log_cap = math.log(terms.cap)
    if terms.correction == "none":
        return log_M.exp(), torch.zeros_like(log_M, dtype=torch.bool)
    if terms.correction.endswith("truncate"):
        # Clamp the logarithm, not the ratio: an overflowing ratio times its own inverse is NaN.
        return log_M.clamp(max=log_cap).exp(), log_M > log_cap
    outside_M = (log_M > log_cap) | (log_M < -log_cap)
    return torch.where(outside_M, 0.0, log_M.clamp(max=log_cap).exp()), outside_M


def _base_kl(new_M: Tensor, base_logprobs_M: Tensor | None, trained_M: Tensor) -> Tensor:
    """Return exp(base - new) - (base - new) - 1 per token: an estimate of KL(policy || base) that is never negative.

    See http://joschu.net/blog/kl-approx.html, estimator k3.
    """
    assert base_logprobs_M is not None, "a KL term needs the base model's log-probabilities"
    difference_M = torch.where(trained_M, base_logprobs_M.to(new_M.dtype), 0.0) - new_M
    return difference_M.exp() - difference_M - 1


def _stats(log_ratio_M: Tensor, old_M: Tensor, trained_M: Tensor, surrogate: _Surrogate) -> TokenStats:
    if not trained_M.any():
        return TokenStats()
    log_M, old_M = log_ratio_M[trained_M].double(), old_M[trained_M].detach().double()
    reported_M = log_M.clamp(max=_MAX_REPORTED_LOG_RATIO)
    ratio_M = reported_M.exp()
    figures = torch.stack([
        torch.tensor(float(log_M.numel()), dtype=torch.double, device=log_M.device),
        ratio_M.sum(),
        ratio_M.max(),
        surrogate.clipped_M[trained_M].sum().double(),
        surrogate.truncated_M[trained_M].sum().double(),
        (ratio_M - 1 - reported_M).sum(),
        log_M.abs().sum(),
        log_M.abs().max(),
        -old_M.sum(),
    ]).tolist()  # one transfer from the device  # fmt: skip
    names = (
        "tokens", "ratio_sum", "ratio_max", "clipped", "truncated", "kl_sum", "drift_sum", "drift_max", "surprise_sum",
    )  # fmt: skip
    return TokenStats(**dict(zip(names, figures, strict=True)))
