"""One optimizer step: batch → micro-batches → summed gradient → update."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from etude.engine.trainer.batch import Batch
from etude.engine.trainer.forward import MicroBatch, micro_batches, new_logprobs, shares_prefixes
from etude.engine.trainer.policy import LoraPolicy
from etude.errors import TrainError
from etude.loss.grpo import BatchTotals, grpo_loss
from etude.loss.metrics import TokenStats

_TOKEN_BUDGET = {"cpu": 1024, "cuda": 8192}
"""Positions of one micro-batch: on a CPU the dense mask's cost soon outweighs what a longer pack shares."""
_LOGIT_CELLS = 2**28
"""Most logits (positions x vocabulary) of one micro-batch: 1 GiB in fp32."""


class StepRunner:
    """Takes optimizer steps on one policy."""

    def __init__(self, policy: LoraPolicy) -> None:
        """Find out whether this model's rows can share their prefixes."""
        self.policy = policy
        self.vocabulary = int(policy.model.get_input_embeddings().weight.shape[0])
        self.share = shares_prefixes(policy.model, self.vocabulary, policy.device)
        self.token_budget = max(1, min(_TOKEN_BUDGET[policy.device.type], _LOGIT_CELLS // self.vocabulary))

    def take(self, batch: Batch, version: int) -> dict[str, float]:
        """Take the step after `version` steps and return its metrics.

        Raises TrainError where loss or gradient is not finite; weights and optimizer are then as before.
        """
        began = time.monotonic()
        parts = self._micro_batches(batch)
        self.policy.optimizer.zero_grad(set_to_none=True)
        try:
            loss, stats = self._accumulate(batch, parts)
            figures = self.policy.update(version)
        finally:
            self.policy.optimizer.zero_grad(set_to_none=True)
        learning = batch.learning
        return {
            "loss": loss,
            **figures,
            **stats.metrics(),
            **_staleness(batch, version),
            "rollouts": float(len(batch.rollouts)),
            "rollouts_with_gradient": float(len(learning)),
            "rows": float(sum(len(r.rows) for r in learning)),
            "row_tokens": float(sum(len(row.token_ids) for r in learning for row in r.rows)),
            "packed_tokens": float(sum(part.input_ids_BN.numel() for part in parts)),
            "untrained_calls": float(batch.untrained_calls),
            "step_seconds": time.monotonic() - began,
        }

    def _micro_batches(self, batch: Batch) -> list[MicroBatch]:
        # A rollout of advantage 0 adds exactly nothing to loss and gradient: it never goes through the model.
        pairs = [(row, k) for k, rollout in enumerate(batch.learning) for row in rollout.rows]
        return micro_batches(
            [row for row, _ in pairs],
            [k for _, k in pairs],
            token_budget=self.token_budget,
            share=self.share,
            device=self.policy.device,
        )

    def _accumulate(self, batch: Batch, parts: list[MicroBatch]) -> tuple[float, TokenStats]:
        advantages_R = self._tensor([r.advantage for r in batch.learning], torch.float32)
        tokens_of_R = self._tensor([r.tokens for r in batch.learning], torch.long)
        totals = BatchTotals(rollouts=len(batch.rollouts), tokens=batch.tokens)
        total, stats = 0.0, TokenStats()
        for part in parts:
            out = grpo_loss(
                new_logprobs(self.policy.model, part),
                part.old_logprobs_M,
                torch.ones_like(part.token_M, dtype=torch.bool),
                part.rollout_of_M,
                advantages_R,
                tokens_of_R,
                totals=totals,
                settings=self.policy.settings.loss,
            )
            value = out.loss.item()
            if not math.isfinite(value):
                raise TrainError(f"the loss is {value}; no step was taken and the weights are as before")
            out.loss.backward()
            total, stats = total + value, stats + out.stats
        return total, stats

    def _tensor(self, values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.policy.device)


def _staleness(batch: Batch, version: int) -> dict[str, float]:
    """How many steps old the weights were that sampled the trained tokens."""
    ages = [version - v for r in batch.learning for row in r.rows for v in row.weight_versions if v is not None]
    return {"staleness_mean": sum(ages) / len(ages), "staleness_max": float(max(ages))}
