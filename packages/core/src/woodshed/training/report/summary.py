"""The figures of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from woodshed.rewards.base import Reward
from woodshed.rewards.mode_trial import ModeTable
from woodshed.tokens import PrefixReuse
from woodshed.training.report.evaluations import (
    EvaluationFigures,
    adapter_folder,
    best,
    evaluations,
    outcome_warnings,
)
from woodshed.training.report.interval import Interval, success_text
from woodshed.training.report.metrics import DRIFT, cost_usd
from woodshed.training.run.judge_modes import mode_tables
from woodshed.training.run.store import RunStore
from woodshed.types import EngineHealth, Record


class Summary(Record):
    """The figures of one run."""

    success_before: float | None = None
    """Mean success on held-out scenarios before the first step; None without an evaluation."""
    success_after: float | None = None
    """The same, on the same scenarios, after the last step."""
    interval_before: Interval | None = None
    """95 % interval of the success before, clustered by scenario (`training.report.interval` has the formula)."""
    interval_after: Interval | None = None
    evaluations: tuple[EvaluationFigures, ...] = ()
    """Every evaluation with its step, first to last; those before and after training are among them."""
    best_step: int | None = None
    """The step after which a trained version had the highest held-out success; of equal ones the first. Its checkpoint
    is never deleted by the run. None without an evaluation, or if nothing was trained."""
    best_success: float | None = None
    best_interval: Interval | None = None
    best_adapter: str | None = None
    """Folder of that version's LoRA, on this machine; of a run that is not finished, it may be on the engine's."""
    last_adapter: str | None = None
    """Folder of the last version's LoRA; the same holds."""
    failed_before: int | None = None
    """Held-out rollouts before the first step that count as 0, because their agent failed or took too long."""
    failed_after: int | None = None
    masked_before: int | None = None
    """Held-out rollouts before the first step that count nowhere, because the infrastructure failed."""
    masked_after: int | None = None
    steps: int
    trained_steps: int
    """Steps that changed the weights; a step whose groups were all flat or masked trains nothing."""
    lora_swaps: int
    """How often vLLM was given a step's weights. Like the next three, over all lives of a run that was resumed."""
    failed_calls: int
    """Model calls the engine answered with a server error."""
    engine_restarts: int
    """How often a vLLM server died and was started again."""
    seconds: float
    peak_rss_mb: float
    engine: str
    """The inference server and its version, as it reports them itself."""
    judge: str
    judge_modes: tuple[ModeTable, ...] = ()
    """For each `Ruler(mode="auto")`: how its judge did in each mode before the first step, and the mode chosen."""
    judge_requests: int
    judge_tokens: int
    judge_cost_usd: float | None
    """Cost of all replies, unusable ones included; None if a judge's price is not known."""
    rollouts: int
    masked_rollouts: int
    unjudged_groups: int
    stale_groups: int
    """Groups dropped before training because a token came from weights more than `max_staleness` steps old."""
    merge_ratio: float
    """Share of sampled tokens, re-sent in a later call, that match their original tokens; 1 if none was re-sent."""
    forks: int
    """Calls whose prompt did not continue from the original tokens of an earlier answer."""
    train_tokens_per_s: float | None
    """Trained tokens divided by the seconds of the optimizer steps; None if no step was trained."""
    max_logprob_drift: float | None
    """Largest mean |trainer's - engine's log-probability| of a step in nats, over tokens of the weights it
    trained; None if no step had any."""
    warnings: tuple[str, ...] = ()

    def held_out(self) -> str:
        """Return held-out success before and after training and the best version as text; empty if not measured."""
        if self.success_before is None or self.success_after is None:
            return ""
        ends = (
            success_text(self.success_before, self.interval_before),
            success_text(self.success_after, self.interval_after),
        )
        is_last = self.best_step is None or self.best_step == self.steps
        top = (
            ""
            if is_last or self.best_success is None
            else (
                f", best {success_text(self.best_success, self.best_interval)} after step {self.best_step}"
                f" (LoRA: {self.best_adapter or 'on the engine'})"
            )
        )
        return f"held-out success {' → '.join(ends)}{top}"


_ENDS = ("before", "after")


def summarise(
    store: RunStore,
    history: Sequence[Mapping[str, Any]],
    *,
    health: EngineHealth,
    seconds: float,
    peak_rss_mb: float,
    judge: Reward,
    paid_usd: float = 0.0,
) -> Summary:
    """Return the figures of a run from its store, its history and the engine's health.

    `paid_usd` is the total of the verdict cache, unused replies included.
    """
    points = evaluations(store, history)
    top = best(points)
    billed_usd = cost_usd(r["judge_cost_usd"] for r in history)
    return Summary(
        success_before=store.fact("success_before"),
        success_after=store.fact("success_after"),
        **{
            f"{what}_{when}": store.fact(f"{what}_{when}")
            for what in ("failed", "masked", "interval")
            for when in _ENDS
        },
        evaluations=points,
        **_best_figures(store, top),
        last_adapter=adapter_folder(store, history[-1]["version"]) if history else None,
        steps=len(history),
        trained_steps=sum(r["trained"] for r in history),
        lora_swaps=health.lora_swaps,
        failed_calls=health.failed_calls,
        engine_restarts=sum(m.restarts for m in health.models),
        seconds=round(seconds, 1),
        peak_rss_mb=round(peak_rss_mb, 1),
        engine=", ".join(f"vLLM {v}" for v in sorted({m.vllm for m in health.models})),
        judge=str(getattr(judge, "name", type(judge).__name__)),
        judge_modes=mode_tables(store),
        judge_requests=sum(r["judge_requests"] for r in history),
        judge_tokens=sum(r["judge_tokens"] for r in history),
        judge_cost_usd=None if billed_usd is None else max(billed_usd, paid_usd),
        rollouts=sum(r["rollouts"] for r in history),
        masked_rollouts=sum(r["masked"] for r in history),
        unjudged_groups=sum(r["unjudged_groups"] for r in history),
        stale_groups=sum(r["stale_groups"] for r in history),
        **_token_figures(history),
        warnings=(*(store.fact("warnings") or ()), *outcome_warnings(store, points)),
    )


def _best_figures(store: RunStore, top: EvaluationFigures | None) -> dict[str, Any]:
    if top is None:
        return {}
    return {
        "best_step": top.step,
        "best_success": top.success,
        "best_interval": top.interval,
        "best_adapter": adapter_folder(store, top.version),
    }


def _token_figures(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    trained = [r for r in history if r["trained"]]
    reuse = PrefixReuse(
        resent=sum(r["tokens/resent"] for r in history), continued=sum(r["tokens/continued"] for r in history)
    )
    seconds = sum(r["train/step_seconds"] for r in trained)
    return {
        "merge_ratio": round(reuse.ratio, 4),
        "forks": sum(r["tokens/forks"] for r in history),
        "train_tokens_per_s": round(sum(r["train/trained_tokens"] for r in trained) / seconds, 1) if seconds else None,
        "max_logprob_drift": max((r[DRIFT] for r in trained if DRIFT in r), default=None),
    }
