"""Supervised steps: cross-entropy on given tokens, packed as in a policy-gradient step; and its evaluation."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, fields
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from woodshed.engine.trainer.batch import TrainingBatch
from woodshed.engine.trainer.drift import Drift
from woodshed.engine.trainer.forward import forward_logprobs
from woodshed.engine.trainer.step import StepRunner
from woodshed.errors import TrainError
from woodshed.loss.sft import sft_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sums:
    """Sums over the micro-batches of a batch; those of several ranks add up."""

    tokens: int = 0
    nll: float = 0.0
    loss: float = 0.0
    micro_batches: int = 0
    drift: Drift = field(default_factory=Drift)
    drift_max: float = 0.0

    @classmethod
    def of(cls, logprobs_M: Tensor, **figures: Any) -> _Sums:
        """Return the sums of one micro-batch with these log-probabilities."""
        nll = -logprobs_M.double().sum().item()
        return cls(tokens=len(logprobs_M), nll=nll, micro_batches=int(len(logprobs_M) > 0), **figures)

    def __add__(self, other: _Sums) -> _Sums:
        """Return the sums over the micro-batches of both."""
        both = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return _Sums(**{name: max(a, b) if name.endswith("_max") else a + b for name, (a, b) in both.items()})

    def metrics(self) -> dict[str, float]:
        """Return the mean negative log-likelihood in nats per token, and the number of tokens."""
        return {"nll": self.nll / self.tokens, "trained_tokens": float(self.tokens)}


def supervised_step(runner: StepRunner, batch: TrainingBatch, version: int) -> dict[str, float]:
    """Take one step of cross-entropy on the batch's tokens, weighted by their advantages, and return its metrics.

    Raises:
        TrainError: Loss or gradient is not finite; weights and optimizer are as before.
    """
    began, policy = time.monotonic(), runner.policy
    parts = runner.micro_batches(batch)
    tokens = sum(rollout.tokens for rollout in batch.learning)

    def own() -> _Sums:
        sums = _Sums()
        for part in parts:
            logprobs_M = forward_logprobs(policy.model, part, runner.mode, checkpointed=runner.checkpointed).logprobs_M
            share = sft_loss(logprobs_M, part.advantages_M, tokens=tokens)
            sums += _Sums.of(logprobs_M.detach(), loss=share.item())
            if not math.isfinite(sums.loss):
                raise TrainError(f"the loss is {sums.loss}; no step was taken and the weights are as before")
            share.backward()
        return sums

    policy.optimizer.zero_grad(set_to_none=True)
    try:
        sums = reduce(add, policy.ranks.gather(own))
        policy.ranks.sum_gradients(policy.parameters)
        update_metrics = policy.update(version)
    finally:
        policy.optimizer.zero_grad(set_to_none=True)
    seconds = time.monotonic() - began
    return {
        "loss": sums.loss,
        **sums.metrics(),
        **update_metrics,
        "train_tokens_per_s": sums.tokens / seconds,
        "step_seconds": seconds,
        "micro_batches": float(sums.micro_batches),
    }


def evaluation(runner: StepRunner, batch: TrainingBatch, version: int) -> dict[str, float]:
    """Return the mean negative log-likelihood of the batch's tokens, and the drift on those sampled by `version`."""
    parts = runner.micro_batches(batch)

    def own() -> _Sums:
        sums = _Sums()
        for part in parts:
            logprobs_M = forward_logprobs(runner.policy.model, part, runner.mode).logprobs_M
            fresh_M = part.version_M == version
            difference_M = (logprobs_M - part.old_logprobs_M).abs()[fresh_M]
            sums += _Sums.of(
                logprobs_M,
                drift=Drift.of(logprobs_M, part.old_logprobs_M, fresh_M),
                drift_max=difference_M.max().item() if len(difference_M) else 0.0,
            )
        return sums

    with torch.no_grad():
        sums = reduce(add, runner.ranks.gather(own))
    drift_metrics = sums.drift.metrics()
    return {**sums.metrics(), **drift_metrics, **({"logprob_drift_max": sums.drift_max} if drift_metrics else {})}
