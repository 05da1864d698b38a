"""The steps of a warm-up on an engine that runs: conversations given, epochs, held-out loss, the adapter at the end."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from woodshed.engine.client.client import EngineClient
from woodshed.errors import ConfigError, RequestRefused
from woodshed.training.config import Policy
from woodshed.training.report.files import write_history, write_summary
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

_SENT_AT_ONCE = 16
_REFUSALS_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SftTrainer:
    """A warm-up on an engine that runs."""

    client: EngineClient
    store: RunStore
    policy: Policy
    config: SftConfig
    source: Path
    progress: SftProgress

    @property
    def name(self) -> str:
        """Return the served policy's name."""
        return self.policy.served().name

    async def open(self, adapter: str | None) -> None:
        """Open the policy, from the adapter it starts from or from the base model."""
        policy, config = self.policy, self.config
        await self.client.open_policy(
            OpenPolicy(
                name=self.name, run_id=self.store.run_id(), lora=policy.lora, optimizer=config.optimizer,
                seed=config.seed, trainer=policy.trainer, load_in_4bit=policy.load_in_4bit, adapter=adapter,
            )
        )  # fmt: skip

    async def import_examples(self, examples: Sequence[SftExample]) -> None:
        """Hand the conversations to the engine, once.

        Raises:
            ConfigError: some cannot be learnt by this model; names their places.
        """
        if self.store.fact("tokens") is not None:
            return
        self.progress.importing(len(examples))
        at_once = asyncio.Semaphore(_SENT_AT_ONCE)

        async def one(number: int, example: SftExample) -> int | str:
            async with at_once:
                try:
                    imported = await self.client.import_session(example.imported(self._rollout_id(number), self.name))
                except RequestRefused as refused:
                    return f"{example.place}: {refused}"
            self.progress.counted()
            return imported.tokens

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(k, example)) for k, example in enumerate(examples)]
        results = [task.result() for task in running]
        if refused := [r for r in results if isinstance(r, str)]:
            more = f"\n… and {len(refused) - _REFUSALS_SHOWN} more" if len(refused) > _REFUSALS_SHOWN else ""
            raise ConfigError(
                f"{len(refused)} of {len(examples)} conversations in {str(self.source)!r} cannot be learnt as "
                f"{self.policy.model!r} would write them:\n" + "\n".join(refused[:_REFUSALS_SHOWN]) + more
            )
        self.store.save_fact("tokens", [r for r in results if not isinstance(r, str)])

    async def learn(self, learnt: Sequence[int], held: Sequence[int]) -> None:
        """Take every step that was not taken yet, and measure the held-out loss before the first and after each epoch.

        A held-out loss that was measured stays; it would be the same, and the weights may be past it.
        """
        config = self.config
        await self._check_base(learnt[: config.batch_size])
        self.progress.measured_before(await self._measure("before", held))
        batches = -(-len(learnt) // config.batch_size)
        for epoch in range(config.epochs):
            self.progress.epoch(epoch, batches)
            order = random.Random(f"{config.seed}/{epoch}").sample(list(learnt), len(learnt))
            for place in range(batches):
                await self._step(epoch, place, order[place * config.batch_size : (place + 1) * config.batch_size])
                self.progress.counted()
            rows = [row for row in self.store.history() if row["epoch"] == epoch]
            self.progress.learnt(epoch, mean_loss(rows), rows, await self._measure(f"epoch {epoch}", held))

    async def _check_base(self, examples: Sequence[int]) -> None:
        """Refuse rollouts that another model sampled under the same name; once, while the weights are still its own."""
        if self.store.history():
            return
        limits = LossSettings()
        figures = (await self._ask("base", examples, "evaluate")).metrics
        if (away := figures.get("logprob_drift_fresh", 0.0)) > limits.drift_stop:
            raise ConfigError(
                f"the run in {str(self.source)!r} was not sampled by the {self.policy.model!r} of today: its "
                f"first rollouts' log-probabilities are {away:.3g} nats a token away. Has the model, or its tokenizer, "
                "been replaced since? Give the model it was made with"
            )

    async def finish(self, examples: Sequence[SftExample], held: frozenset[int]) -> SftSummary:
        """Copy the adapter into the warm-up's folder, and write its figures."""
        place = Path((await self.client.adapter(self.name)).path)
        adapter = _copied(place, self.store.folder / "adapter") if place.is_dir() else place
        history, epochs, tokens = self.store.history(), self.config.epochs, self.store.fact("tokens")
        summary = SftSummary(
            conversations=len(examples) - len(held),
            held_out=len(held),
            tokens=sum(n for k, n in enumerate(tokens) if k not in held),
            steps=len(history),
            loss_first=mean_loss([row for row in history if row["epoch"] == 0]),
            loss_last=mean_loss([row for row in history if row["epoch"] == epochs - 1]),
            held_out_before=self.store.fact("held out before"),
            held_out_after=self.store.fact(f"held out epoch {epochs - 1}"),
            seconds=round(self.store.fact("seconds"), 1),
            model=self.policy.model,
            adapter=str(adapter),
        )
        write_summary(self.store.folder, summary.model_dump(mode="json"))
        write_history(self.store.folder, history)
        self.store.save_fact("finished", True)
        return summary

    async def _step(self, epoch: int, place: int, examples: Sequence[int]) -> None:
        step_id = f"epoch-{epoch:03d}-step-{place:05d}"
        if self.store.step(step_id) is not None:
            return
        report = await self._ask(step_id, examples, "supervised")
        figures = {name: report.metrics[name] for name in ("nll", "trained_tokens", "grad_norm", "learning_rate")}
        step = len(self.store.history())
        row = {"step": step, "epoch": epoch, "version": report.version, **figures}
        self.store.save_step(step, report, row)

    async def _measure(self, name: str, held: Sequence[int]) -> float | None:
        """Return the held-out loss of the policy as it is, in nats a token."""
        if not held or (known := self.store.fact(f"held out {name}")) is not None:
            return known if held else None
        size, rows = self.config.batch_size, []
        for start in range(0, len(held), size):
            rows.append((await self._ask(f"held out {name}/{start}", held[start : start + size], "evaluate")).metrics)
        self.store.save_fact(f"held out {name}", loss := mean_loss(rows))
        return loss

    async def _ask(self, step_id: str, examples: Sequence[int], objective: Objective) -> StepReport:
        rollouts = tuple(WeightedRollout(rollout_id=self._rollout_id(k), advantage=1.0) for k in examples)
        return await self.client.step(self.name, StepRequest(step_id=step_id, rollouts=rollouts, objective=objective))

    def _rollout_id(self, number: int) -> str:
        return f"sft/{self.store.run_id()}/{number}"


def mean_loss(rows: Sequence[dict[str, Any]]) -> float:
    """Return the mean negative log-likelihood of a token over several batches."""
    tokens = sum(row["trained_tokens"] for row in rows)
    return float(sum(row["nll"] * row["trained_tokens"] for row in rows) / tokens)


def _copied(adapter: Path, target: Path) -> Path:
    """Copy an adapter, whole or not at all, and return where it is."""
    aside = target.with_name(f".{target.name}")
    for stale in (aside, target):
        shutil.rmtree(stale, ignore_errors=True)
    shutil.copytree(adapter, aside)
    aside.rename(target)
    return target.absolute()
