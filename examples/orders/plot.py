"""Draw the held-out success of several runs of `demo.py` in one picture, with the controls that are there.

    python examples/orders/plot.py runs/orders-0 runs/orders-1 runs/orders-2 --to learning.png

It needs matplotlib: pip install 'woodshed[plot]'.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_LEARNED, _CONTROL = "tab:blue", "tab:gray"


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--to", type=Path, default=Path("learning.png"), help="the picture (learning.png)")
    given = parser.parse_args()
    controls = [folder / "control" for folder in given.runs if (folder / "control" / "summary.json").is_file()]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    _draw(axes, given.runs, _LEARNED, f"practised, {len(given.runs)} seeds")
    _draw(axes, controls, _CONTROL, "the same on shuffled rewards")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("whole orders right, held out")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(given.to, dpi=150)


def _draw(axes: Axes, folders: Sequence[Path], color: str, label: str) -> None:
    for number, folder in enumerate(folders):
        points = json.loads((folder / "summary.json").read_text())["evaluations"]
        steps, means = [p["step"] for p in points], [p["success"] for p in points]
        low, high = ([abs(p["interval"][end] - p["success"]) for p in points] for end in (0, 1))
        axes.errorbar(
            steps, means, yerr=(low, high), color=color, marker="o", markersize=4, capsize=3, elinewidth=0.8,
            label=label if number == 0 else None,
        )  # fmt: skip


if __name__ == "__main__":
    main()
