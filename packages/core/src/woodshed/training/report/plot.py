"""Plot a run: the judge's mean score by step, and the held-out success before and after."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from woodshed.training.report.summary import Summary

_log = logging.getLogger("woodshed.training")


def plot(path: Path, history: Sequence[Mapping[str, Any]], summary: Summary) -> None:
    """Draw the judge's mean score by step, and the held-out success before and after."""
    try:
        import matplotlib
    except ImportError:
        _log.warning("no plot: matplotlib is not installed (pip install 'woodshed[plot]')")
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
