"""Supervised steps: cross-entropy on given tokens, packed as in a policy-gradient step; and its evaluation."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from woodshed.engine.trainer.batch import TrainingBatch
from woodshed.engine.trainer.drift import Drift
from woodshed.engine.trainer.forward import forward_logprobs
from woodshed.engine.trainer.step import StepRunner
from woodshed.errors import TrainError
from woodshed.loss.sft import sft_loss


@dataclass(slots=True)
class _Sums:
    """Sums over the micro-batches of a batch."""

    tokens: int = 0
    nll: float = 0.0

    def add(self, logprobs_M: Tensor) -> None:
        """Add a micro-batch's log-probabilities."""
        self.tokens += len(logprobs_M)
        self.nll -= logprobs_M.double().sum().item()

    def metrics(self) -> dict[str, float]:
        """Return the mean negative log-likelihood in nats per token, and the number of tokens."""
        return {"nll": self.nll / self.tokens, "trained_tokens": float(self.tokens)}


def supervised_step(runner: StepRunner, batch: TrainingBatch, version: int) -> dict[str, float]:
    """Take one step of cross-entropy on the batch's tokens, weighted by their advantages, and return its metrics.

    Raises:
        TrainError: Loss or gradient is not finite; weights and optimizer are as before.
    """
    began, policy, sums = time.monotonic(), runner.policy, _Sums()
    parts = runner.micro_batches(batch)
    tokens = sum(rollout.tokens for rollout in batch.learning)
    loss = 0.0
    policy.optimizer.zero_grad(set_to_none=True)
    try:
        for part in parts:
            logprobs_M = forward_logprobs(policy.model, part, runner.mode, checkpointed=runner.checkpointed).logprobs_M
            share = sft_loss(logprobs_M, part.advantages_M, tokens=tokens)
            if not math.isfinite(loss := loss + share.item()):
                raise TrainError(f"the loss is {loss}; no step was taken and the weights are as before")
            share.backward()
            sums.add(logprobs_M.detach())
        update_metrics = policy.update(version)
    finally:
        policy.optimizer.zero_grad(set_to_none=True)
    seconds = time.monotonic() - began
    return {
        "loss": loss,
        **sums.metrics(),
        **update_metrics,
        "train_tokens_per_s": sums.tokens / seconds,
        "step_seconds": seconds,
        "micro_batches": float(len(parts)),
    }


def evaluation(runner: StepRunner, batch: TrainingBatch, version: int) -> dict[str, float]:
    """Return the mean negative log-likelihood of the batch's tokens, and the drift on those sampled by `version`."""
    sums, drift, drift_max = _Sums(), Drift(), 0.0
    with torch.no_grad():
        for part in runner.micro_batches(batch):
            logprobs_M = forward_logprobs(runner.policy.model, part, runner.mode).logprobs_M
            fresh_M = part.version_M == version
            sums.add(logprobs_M)
            drift += Drift.of(logprobs_M, part.old_logprobs_M, fresh_M)
            difference_M = (logprobs_M - part.old_logprobs_M).abs()[fresh_M]
            drift_max = max(drift_max, difference_M.max().item() if len(difference_M) else 0.0)
    drift_metrics = drift.metrics()
    return {**sums.metrics(), **drift_metrics, **({"logprob_drift_max": drift_max} if drift_metrics else {})}
