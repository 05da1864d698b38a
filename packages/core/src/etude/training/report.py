"""What a finished run leaves for a reader: `summary.json`, `history.jsonl` and a plot."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from etude.rewards.function import Reward
from etude.training.store import RunStore
from etude.types import EngineHealth, Record

_log = logging.getLogger("etude.training")


class Summary(Record):
    """The figures of one run."""

    success_before: float | None = None
    """Mean of the evaluation's measure on held-out scenarios before the first step; None without an evaluation."""
    success_after: float | None = None
    """The same, on the same scenarios, after the last step."""
    steps: int
    trained_steps: int
    """Steps that changed the weights; a step whose groups were all flat or masked trains nothing."""
    lora_swaps: int
    failed_calls: int
    """Model calls the engine answered with a server error."""
    engine_restarts: int
    seconds: float
    peak_rss_mb: float
    engine: str
    """The inference server and its version, as it reports them itself."""
    judge: str
    judge_requests: int
    judge_tokens: int
    judge_cost_usd: float
    rollouts: int
    masked_rollouts: int
    unjudged_groups: int
    warnings: tuple[str, ...] = ()


def write_report(
    store: RunStore, *, health: EngineHealth, seconds: float, peak_rss_mb: float, judge: Reward
) -> Summary:
    """Write the run's summary, history and plot into its folder, and return the summary."""
    history = store.history()
    summary = Summary(
        success_before=store.fact("success_before"),
        success_after=store.fact("success_after"),
        steps=len(history),
        trained_steps=sum(r["trained"] for r in history),
        lora_swaps=health.lora_swaps,
        failed_calls=health.failed_calls,
        engine_restarts=sum(m.restarts for m in health.models),
        seconds=round(seconds, 1),
        peak_rss_mb=round(peak_rss_mb, 1),
        engine=", ".join(f"vLLM {v}" for v in sorted({m.vllm for m in health.models})),
        judge=str(getattr(judge, "name", type(judge).__name__)),
        judge_requests=sum(r["judge_requests"] for r in history),
        judge_tokens=sum(r["judge_tokens"] for r in history),
        judge_cost_usd=sum(r["judge_cost_usd"] for r in history),
        rollouts=sum(r["rollouts"] for r in history),
        masked_rollouts=sum(r["masked"] for r in history),
        unjudged_groups=sum(r["unjudged_groups"] for r in history),
        warnings=tuple(store.fact("warnings") or ()),
    )
    write_summary(store.folder, summary.model_dump(mode="json"))
    lines = "".join(json.dumps(row) + "\n" for row in history)
    (store.folder / "history.jsonl").write_text(lines)
    plot(store.folder / "plot.png", history, summary)
    return summary


def write_summary(folder: Path, figures: dict[str, Any]) -> None:
    """Write `summary.json`, whole or not at all."""
    aside = folder / "summary.json.tmp"
    aside.write_text(json.dumps(figures, indent=2) + "\n")
    aside.replace(folder / "summary.json")


def plot(path: Path, history: list[dict[str, Any]], summary: Summary) -> None:
    """Draw the judge's mean score by step, and the held-out success before and after."""
    try:
        import matplotlib
    except ImportError:
        _log.warning("no plot: matplotlib is not installed (pip install 'etude[plot]')")
        return
    matplotlib.use("agg", force=False)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    scored = [r for r in history if r["reward"] is not None]
    axes.plot([r["step"] + 1 for r in scored], [r["reward"] for r in scored], label="judge's mean score (train)")
    if summary.success_before is not None and summary.success_after is not None:
        ends = [0, max(len(history), 1)]
        axes.plot(ends, [summary.success_before, summary.success_after], "o--", label="true success (held out)")
    axes.set_xlabel("optimizer step")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    axes.set_title(f"{summary.steps} steps, judge {summary.judge}, {summary.engine}", fontsize=9)
    figure.savefig(path, dpi=120)
