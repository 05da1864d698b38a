"""Plot a run: the mean score by step, and the held-out success with its intervals."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from woodshed.training.report.step_line import JUDGED
from woodshed.training.report.summary import Summary

_log = logging.getLogger("woodshed.training")


def plot(path: Path, history: Sequence[Mapping[str, Any]], summary: Summary, *, scored: str = JUDGED) -> None:
    """Draw the mean score by step, under the name `scored`, and every held-out success with its 95 % interval."""
    try:
        import matplotlib
    except ImportError:
        _log.warning("no plot: matplotlib is not installed (pip install 'woodshed[plot]')")
        return
    matplotlib.use("agg", force=False)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    rows = [r for r in history if r["reward"] is not None]
    axes.plot([r["step"] + 1 for r in rows], [r["reward"] for r in rows], label=f"mean {scored} (train)")
    if points := summary.evaluations:
        steps, means = [p.step for p in points], [p.success for p in points]
        ends = [p.interval or (p.success, p.success) for p in points]
        errors = (
            [m - low for m, (low, _) in zip(means, ends, strict=True)],
            [high - m for m, (_, high) in zip(means, ends, strict=True)],
        )
        axes.errorbar(steps, means, yerr=errors, fmt="o--", capsize=3, label="true success (held out), 95 % interval")
    if summary.best_step is not None and summary.best_success is not None:
        axes.plot(summary.best_step, summary.best_success, "*", markersize=12, label=f"best: step {summary.best_step}")
    axes.set_xlabel("optimizer step")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    kind = "judge" if scored == JUDGED else scored
    axes.set_title(f"{summary.steps} steps, {kind} {summary.judge}, {summary.engine}", fontsize=9)
    figure.savefig(path, dpi=120)
