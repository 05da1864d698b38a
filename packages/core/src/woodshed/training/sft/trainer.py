"""SFT on a running engine: import conversations, train epochs, measure held-out loss, copy the adapter."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from woodshed.engine.client.adapter_files import fetch_adapter
from woodshed.engine.client.client import EngineClient
from woodshed.errors import ConfigError, RequestRefused
from woodshed.training.config import Policy
from woodshed.training.on_step import OnStep, called
from woodshed.training.report.files import write_history, write_summary
from woodshed.training.report.held_out_loss import BEFORE, after_epoch
from woodshed.training.run.storage import storage
from woodshed.training.run.store import RunStore
from woodshed.training.sft.config import SftConfig
from woodshed.training.sft.dataset import SftExample
from woodshed.training.sft.progress import SftProgress
from woodshed.training.sft.summary import SftSummary
from woodshed.types import (
    LossSettings,
    Objective,
    OpenPolicy,
    StepReport,
    StepRequest,
    WeightedRollout,
)

_CONCURRENT_IMPORTS = 16
_REFUSALS_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SftTrainer:
    """SFT on a running engine."""

    client: EngineClient
    store: RunStore
    policy: Policy
    config: SftConfig
    source: Path
    progress: SftProgress
    on_step: OnStep | None = None

    @property
    def name(self) -> str:
        """Return the served policy's name."""
        return self.policy.served().name

    async def open(self, adapter: str | None) -> None:
        """Open the policy, starting from `adapter` or from the base model."""
        policy, config = self.policy, self.config
        state = await self.client.open_policy(
            OpenPolicy(
                name=self.name, run_id=self.store.run_id(), lora=policy.lora, optimizer=config.optimizer,
                seed=config.seed, trainer=policy.trainer, load_in_4bit=policy.load_in_4bit, kernels=policy.kernels,
                adapter=adapter,
            )
        )  # fmt: skip
        self._warn(state.warnings)

    async def import_examples(self, examples: Sequence[SftExample]) -> None:
        """Import the conversations into the engine, unless that was done before.

        Raises:
            ConfigError: some cannot be used with this model; the message names them.
        """
        if self.store.fact("tokens") is not None:
            return
        self.progress.import_started(len(examples))
        semaphore = asyncio.Semaphore(_CONCURRENT_IMPORTS)

        async def one(number: int, example: SftExample) -> int | str:
            async with semaphore:
                try:
                    imported = await self.client.import_session(example.imported(self._rollout_id(number), self.name))
                except RequestRefused as refused:
                    return f"{example.place}: {refused}"
            self.progress.advance()
            return imported.tokens

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(k, example)) for k, example in enumerate(examples)]
        results = [task.result() for task in running]
        if refused := [r for r in results if isinstance(r, str)]:
            more = f"\n… and {len(refused) - _REFUSALS_SHOWN} more" if len(refused) > _REFUSALS_SHOWN else ""
            raise ConfigError(
                f"{len(refused)} of {len(examples)} conversations in {str(self.source)!r} cannot be trained with "
                f"the chat template of {self.policy.model!r}:\n" + "\n".join(refused[:_REFUSALS_SHOWN]) + more
            )
        self.store.save_fact("tokens", [r for r in results if not isinstance(r, str)])

    async def train(self, training: Sequence[int], held: Sequence[int]) -> None:
        """Take every remaining step, and measure the held-out loss before the first step and after each epoch.

        A held-out loss that was saved is not measured again: the weights may have moved on since.
        """
        config = self.config
        await self._check_base(training[: config.batch_size])
        self.progress.measured_before(await self._measure(BEFORE, held))
        batches = -(-len(training) // config.batch_size)
        for epoch in range(config.epochs):
            self.progress.epoch_started(epoch, batches)
            order = random.Random(f"{config.seed}/{epoch}").sample(list(training), len(training))
            for batch in range(batches):
                await self._step(epoch, batch, order[batch * config.batch_size : (batch + 1) * config.batch_size])
                self.progress.advance()
            rows = [row for row in self.store.history() if row["epoch"] == epoch]
            self.progress.epoch_done(epoch, mean_loss(rows), rows, await self._measure(after_epoch(epoch), held))

    async def _check_base(self, examples: Sequence[int]) -> None:
        """Refuse rollouts sampled by a different model of the same name; checked before the first step."""
        if self.store.history():
            return
        limits = LossSettings()
        figures = (await self._request_step("base", examples, "evaluate")).metrics
        if (drift := figures.get("logprob_drift_fresh", 0.0)) > limits.drift_stop:
            raise ConfigError(
                f"the run in {str(self.source)!r} was not sampled by the {self.policy.model!r} of today: its "
                f"first rollouts' log-probabilities are {drift:.3g} nats per token away. Has the model, or its "
                "tokenizer, been replaced since? Use the model it was made with"
            )

    async def finish(self, examples: Sequence[SftExample], held: frozenset[int], *, seconds: float) -> SftSummary:
        """Copy the adapter into the folder of this SFT, and write its summary."""
        adapter = self.store.folder / "adapter"
        if adapter.is_dir():  # of an attempt to finish that was interrupted
            shutil.rmtree(adapter)
        with storage(adapter):
            await fetch_adapter(self.client, self.name, self.store.run_id(), None, adapter)
        history, epochs, tokens = self.store.history(), self.config.epochs, self.store.fact("tokens")
        summary = SftSummary(
            conversations=len(examples) - len(held),
            held_out=len(held),
            tokens=sum(n for k, n in enumerate(tokens) if k not in held),
            steps=len(history),
            loss_first=mean_loss([row for row in history if row["epoch"] == 0]),
            loss_last=mean_loss([row for row in history if row["epoch"] == epochs - 1]),
            held_out_before=self.store.fact(BEFORE),
            held_out_after=self.store.fact(after_epoch(epochs - 1)),
            seconds=round(seconds, 1),
            model=self.policy.model,
            adapter=str(adapter.absolute()),
            warnings=tuple(self.store.fact("warnings") or ()),
        )
        write_summary(self.store.folder, summary.model_dump(mode="json"))
        write_history(self.store.folder, history)
        self.store.save_fact("finished", True)
        return summary

    async def _step(self, epoch: int, batch: int, examples: Sequence[int]) -> None:
        step_id = f"epoch-{epoch:03d}-step-{batch:05d}"
        if self.store.step(step_id) is not None:
            return
        report = await self._request_step(step_id, examples, "supervised")
        figures = {name: report.metrics[name] for name in ("nll", "trained_tokens", "grad_norm", "learning_rate")}
        step = len(self.store.history())
        row = {"step": step, "epoch": epoch, "version": report.version, **figures}
        self.store.save_step(step, report, row)
        await called(self.on_step, row)

    async def _measure(self, name: str, held: Sequence[int]) -> float | None:
        """Return the held-out loss of the current policy, in nats per token."""
        if not held or (saved := self.store.fact(name)) is not None:
            return saved if held else None
        size, rows = self.config.batch_size, []
        for start in range(0, len(held), size):
            rows.append((await self._request_step(f"{name}/{start}", held[start : start + size], "evaluate")).metrics)
        self.store.save_fact(name, loss := mean_loss(rows))
        return loss

    async def _request_step(self, step_id: str, examples: Sequence[int], objective: Objective) -> StepReport:
        rollouts = tuple(WeightedRollout(rollout_id=self._rollout_id(k), advantage=1.0) for k in examples)
        request = StepRequest(step_id=step_id, rollouts=rollouts, objective=objective)
        report = await self.client.step(self.name, request)
        self._warn(report.warnings)
        return report

    def _warn(self, warnings: Sequence[str]) -> None:
        """Show and keep what the trainer warns of."""
        self.progress.warn(warnings)
        self.store.add_warnings(warnings)

    def _rollout_id(self, number: int) -> str:
        return f"sft/{self.store.run_id()}/{number}"


def mean_loss(rows: Sequence[dict[str, Any]]) -> float:
    """Return the mean negative log-likelihood in nats per token over several batches."""
    tokens = sum(row["trained_tokens"] for row in rows)
    return float(sum(row["nll"] * row["trained_tokens"] for row in rows) / tokens)
