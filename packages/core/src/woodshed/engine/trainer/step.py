"""One optimizer step: batch → micro-batches → accumulated gradient → update of the LoRA."""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import cached_property, reduce
from operator import add

import torch
from torch import Tensor

from woodshed.engine.trainer.attention.decoder import Checkpointed
from woodshed.engine.trainer.batch import TrainedRollout, TrainingBatch
from woodshed.engine.trainer.drift import Drift
from woodshed.engine.trainer.forward import (
    ALONG_A_TREE,
    MicroBatch,
    TrainingRow,
    forward_logprobs,
    micro_batches,
    use_kernels,
)
from woodshed.engine.trainer.forward_mode import TOKEN_BUDGET, choose_forward_mode
from woodshed.engine.trainer.kernel_race import Heads, faster_mode
from woodshed.engine.trainer.layer_race import choose_kernels
from woodshed.engine.trainer.log_ratios import LogRatios
from woodshed.engine.trainer.memory import PeakWatch, available_bytes, memory_model, return_freed_memory
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.slower_mode import SlowerMode
from woodshed.engine.trainer.threads import threads_worth
from woodshed.errors import TrainError
from woodshed.loss.grpo import BatchTotals, LossOut, grpo_loss, log_ratio_sums
from woodshed.loss.metrics import TokenStats
from woodshed.loss.presets import loss_terms
from woodshed.tokens import deal_rows

_log = logging.getLogger("woodshed.trainer")

_MAX_LOGITS = 2**28
"""Most logits (positions x vocabulary) of one micro-batch in modes that compute all of them: 1 GiB in fp32."""
_MIN_PACK = 4096
"""If memory allows only packs shorter than this, or than the longest row, a step checkpoints: it runs layers twice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSums:
    """Sums over the micro-batches of a batch, apart from the gradient; those of several ranks add up."""

    loss: float
    stats: TokenStats
    drift: Drift
    log_ratios: LogRatios
    packed_tokens: int
    micro_batches: int

    def __add__(self, other: StepSums) -> StepSums:
        """Return the sums over the micro-batches of both."""
        return StepSums(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


class StepRunner:
    """Takes optimizer steps on one policy."""

    def __init__(self, policy: LoraPolicy) -> None:
        """Measure which forward mode the model supports and how much memory it needs."""
        self.policy = policy
        self.ranks = policy.ranks
        self.terms = loss_terms(policy.settings.loss)
        self.vocabulary = int(policy.model.get_input_embeddings().weight.shape[0])
        found = choose_forward_mode(policy.model, self.vocabulary, policy.device)
        choice = self.ranks.from_first(lambda: found)
        self.mode = choice.mode
        kernels = self.ranks.from_first(lambda: choose_kernels(policy.settings.kernels, policy.model, self.mode))
        use_kernels(policy.model, kernels.kernels)
        self.slower = SlowerMode(choice, kernels.warning)
        self.memory = memory_model(policy.model, self.vocabulary, self.mode, policy.device)
        self.token_budget = TOKEN_BUDGET[self.mode]
        if self.mode not in ALONG_A_TREE:
            self.token_budget = max(1, min(self.token_budget, _MAX_LOGITS // self.vocabulary))
        self.checkpointed: Checkpointed = False
        self._may_race = self.mode == "tree" and policy.device.type == "cuda"
        self.log_ratios: LogRatios | None = None
        """Those of the last policy-gradient step."""
        self._threads = torch.get_num_threads()
        self._parameters = sum(p.numel() for p in policy.model.parameters())
        self._peak = PeakWatch(policy.device)
        _log.info("rows go through %s on %s in the forward mode %r", policy.settings.name, policy.device, self.mode)

    def take(self, batch: TrainingBatch, version: int) -> dict[str, float]:
        """Take the step after `version` steps and return its metrics.

        Raises:
            TrainError: Loss or gradient is not finite; weights and optimizer are as before.
            DriftError: The engine sampled from another policy; weights and optimizer are as before.
        """
        began = time.monotonic()
        parts = self.micro_batches(batch)
        self._peak.start()
        self.policy.optimizer.zero_grad(set_to_none=True)
        try:
            sums = self.accumulate(batch, parts, version)
            sums.drift.check(self.policy.settings.loss)
            update_metrics = self.policy.update(version)
        finally:
            self.policy.optimizer.zero_grad(set_to_none=True)
        self.log_ratios = sums.log_ratios
        seconds = time.monotonic() - began
        return {
            "loss": sums.loss,
            **update_metrics,
            **sums.stats.metrics(),
            **sums.drift.metrics(),
            **_staleness(batch, version),
            **self._sizes(batch, sums),
            **self._memory(parts),
            "train_tokens_per_s": sums.stats.tokens / seconds,
            "step_seconds": seconds,
        }

    def micro_batches(self, batch: TrainingBatch) -> list[MicroBatch]:
        """Return this rank's micro-batches, which fit the token budget and the memory; sets the number of threads."""
        # Without a KL term or entropy bonus, a rollout with advantage 0 adds exactly 0 to the loss, so it is left out.
        rows = [
            TrainingRow(row=row, rollout=k, advantages=rollout.advantages(row))
            for k, rollout in enumerate(self._counted(batch))
            for row in rollout.rows
        ]
        longest = max((len(training_row.row.token_ids) for training_row in rows), default=1)
        if self.ranks.count > 1:
            shares = deal_rows([training_row.row.token_ids for training_row in rows], self.ranks.count)
            rows = [rows[k] for k in shares[self.ranks.rank]]
        available = min(self.ranks.gather(self._available))
        wanted = max(longest, min(_MIN_PACK, self.token_budget))
        for way in self._ways_to_fit():
            self.checkpointed = way
            max_positions = self.memory.max_positions(available, checkpointed=self.checkpointed)
            if max_positions >= wanted:
                break
        if self.checkpointed:
            return_freed_memory()
        budget = max(1, min(self.token_budget, max_positions))
        parts = self._packed(rows, budget)
        self.slower.packed(rows, parts)
        if self.policy.is_sharded:
            most = max(self.ranks.gather(lambda: len(parts)))
            parts += [self._idle] * (most - len(parts))
        longest_part = max((part.input_ids_BN.numel() for part in parts), default=0)
        torch.set_num_threads(threads_worth(longest_part, self._parameters, self._threads))
        return parts

    def _ways_to_fit(self) -> tuple[Checkpointed, ...]:
        """Return what a step may run twice, the fastest first."""
        if self.mode not in ALONG_A_TREE:
            return (False,)
        # FlexAttention is compiled, and a CPU's tiles are many: neither can be kept as one result.
        keeps_attention = self.mode == "tree" and self.policy.device.type == "cuda"
        return (False, "selective", True) if keeps_attention else (False, True)

    def _packed(self, rows: list[TrainingRow], budget: int) -> list[MicroBatch]:
        parts = micro_batches(rows, token_budget=budget, mode=self.mode, device=self.policy.device)
        plans = [part.plan for part in parts if part.plan is not None]
        if not plans or not self._may_race:
            return parts
        self._may_race = False
        longest = max(plans, key=lambda plan: plan.segments[-1].stop)
        mode = faster_mode(longest, Heads.of(self.policy.model.config), self.policy.model.dtype)
        if mode == self.mode:
            return parts
        self.mode = mode
        return micro_batches(rows, token_budget=budget, mode=mode, device=self.policy.device)

    def accumulate(self, batch: TrainingBatch, parts: list[MicroBatch], version: int = 0) -> StepSums:
        """Accumulate the gradient of all micro-batches and return their sums; the optimizer is not used.

        `parts` are this rank's; gradient and sums are those of all ranks.
        """
        counted = self._counted(batch)
        tokens_of_R = self._tensor([r.tokens for r in counted], torch.long)
        totals = BatchTotals(rollouts=len(batch.rollouts), tokens=batch.tokens)
        is_cut = len(parts) > 1 or self.ranks.count > 1
        log_ratio_of_R = self._log_ratios(parts, len(counted)) if self.terms.by_sequence and is_cut else None

        def own() -> StepSums:
            loss, stats, drift, log_ratios = 0.0, TokenStats(), Drift(), LogRatios([r.rollout_id for r in counted])
            for part in parts:
                out, new_M = self._loss(part, tokens_of_R, totals, log_ratio_of_R)
                value = out.loss.item()
                if not math.isfinite(value):
                    raise TrainError(f"the loss is {value}; no step was taken and the weights are as before")
                out.loss.backward()
                loss, stats = loss + value, stats + out.stats
                drift += Drift.of(new_M, part.old_logprobs_M, part.version_M == version)
                log_ratios.add(part, new_M)
            return StepSums(
                loss=loss, stats=stats, drift=drift, log_ratios=log_ratios, 
                micro_batches=sum(len(part.token_M) > 0 for part in parts),
                packed_tokens=sum(part.input_ids_BN.numel() for part in parts if len(part.token_M)),
            )  # fmt: skip

        sums = reduce(add, self.ranks.gather(own))
        self.ranks.sum_gradients(self.policy.parameters)
        return sums

    def _loss(
        self, part: MicroBatch, tokens_of_R: Tensor, totals: BatchTotals, log_ratio_of_R: Tensor | None
    ) -> tuple[LossOut, Tensor]:
        model, wants_entropy = self.policy.model, self.terms.entropy_coef > 0
        outputs = forward_logprobs(model, part, self.mode, entropy=wants_entropy, checkpointed=self.checkpointed)
        out = grpo_loss(
            outputs.logprobs_M,
            part.old_logprobs_M,
            torch.ones_like(part.token_M, dtype=torch.bool),
            part.rollout_of_M,
            part.advantages_M,
            tokens_of_R,
            totals=totals,
            settings=self.policy.settings.loss,
            log_ratio_of_R=log_ratio_of_R,
            base_logprobs_M=self._no_grad_logprobs(part, adapter=False) if self.terms.kl_coef else None,
            entropies_M=outputs.entropies_M,
        )
        return out, outputs.logprobs_M.detach()

    def _log_ratios(self, parts: list[MicroBatch], rollouts: int) -> Tensor:
        """Return each rollout's sum of log ratios (R), from a forward pass before the first backward pass."""
        sums_R = self._tensor([0.0] * rollouts, torch.double)
        for part in parts:
            new_M = self._no_grad_logprobs(part, adapter=True)
            sampled_M = torch.ones_like(part.token_M, dtype=torch.bool)
            sums_R += log_ratio_sums(new_M, part.old_logprobs_M, sampled_M, part.rollout_of_M, rollouts)
        self.ranks.sum(sums_R)
        return sums_R

    def _no_grad_logprobs(self, part: MicroBatch, *, adapter: bool) -> Tensor:
        """Return the policy's log-probabilities (M) without gradient, or with `adapter=False` the base model's."""
        with torch.no_grad(), nullcontext() if adapter else self.policy.model.disable_adapter():
            return forward_logprobs(self.policy.model, part, self.mode).logprobs_M

    def _counted(self, batch: TrainingBatch) -> tuple[TrainedRollout, ...]:
        return batch.rollouts if self.terms.beyond_advantage else batch.learning

    def _sizes(self, batch: TrainingBatch, sums: StepSums) -> dict[str, float]:
        counted = self._counted(batch)
        return {
            "rollouts": float(len(batch.rollouts)),
            "rollouts_with_gradient": float(len(counted)),
            "rows": float(sum(len(r.rows) for r in counted)),
            "row_tokens": float(sum(len(row.token_ids) for r in counted for row in r.rows)),
            "packed_tokens": float(sums.packed_tokens),
            "micro_batches": float(sums.micro_batches),
            "untrained_calls": float(batch.untrained_calls),
        }

    def _memory(self, parts: list[MicroBatch]) -> dict[str, float]:
        """Return the predicted and the measured memory of the rank with most, and warn where it took much more."""
        predicted = max((self.memory.predicted(part, checkpointed=self.checkpointed) for part in parts), default=0.0)
        figures = {
            **self._peak.figures(),
            "peak_step_predicted_mb": predicted / 2**20,
            "checkpointed": float(bool(self.checkpointed)),
        }
        if figures["peak_step_mb"] > 1.5 * figures["peak_step_predicted_mb"] + 256:
            _log.warning(
                "the step took %.0f MiB of memory, predicted were %.0f",
                figures["peak_step_mb"],
                figures["peak_step_predicted_mb"],
            )
        by_rank = self.ranks.gather(lambda: figures)
        return {name: max(of_rank[name] for of_rank in by_rank) for name in figures}

    def _available(self) -> float:
        """Return this rank's share of the memory that a step may plan with."""
        shared = self.ranks.local_count if self.policy.device.type == "cpu" else 1
        return available_bytes(self.policy.device) / shared

    @cached_property
    def _idle(self) -> MicroBatch:
        from woodshed.engine.trainer.sharding import idle_micro_batch

        return idle_micro_batch(self.mode, self.policy.device)

    def _tensor(self, values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.policy.device)


def _staleness(batch: TrainingBatch, version: int) -> dict[str, float]:
    """Return how many steps older than the current ones the weights were that sampled the trained tokens."""
    ages = [version - v for r in batch.learning for row in r.rows for v in row.weight_versions if v is not None]
    return {"staleness_mean": sum(ages) / len(ages), "staleness_max": float(max(ages))}
