"""What a person sees while a warm-up goes on: one live line, one printed line an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.training.report.progress import RunProgress
from woodshed.training.sft.summary import SftSummary


class SftProgress(RunProgress):
    """A warm-up's progress on the terminal; plain lines where there is none."""

    def __init__(self, *, folder: Path, epochs: int, console: Console | None = None) -> None:
        """Nothing is shown before the block is entered."""
        super().__init__(folder=folder, steps=epochs, console=console)

    def importing(self, total: int) -> None:
        """Begin to hand conversations to the engine."""
        self._bars.reset(self._task, description="rendering conversations", total=total)

    def epoch(self, epoch: int, batches: int) -> None:
        """Begin an epoch."""
        self._bars.reset(self._task, description=f"epoch {epoch + 1}/{self._steps}", total=batches)

    def learnt(self, epoch: int, loss: float, rows: Sequence[dict[str, Any]], held_out: float | None) -> None:
        """End an epoch."""
        tokens = sum(row["trained_tokens"] for row in rows)
        measured = "" if held_out is None else f"  held-out loss [bold]{held_out:.4f}[/]"
        size = f"{len(rows)} steps, {tokens:.0f} tokens"
        self._console.print(f"epoch {epoch + 1}/{self._steps}  loss [bold]{loss:.4f}[/]{measured}  {size}")

    def measured_before(self, held_out: float | None) -> None:
        """Say where the held-out loss starts."""
        if held_out is not None:
            self._console.print(f"held-out loss before: [bold]{held_out:.4f}[/]")

    def finished(self, summary: SftSummary) -> None:
        """Print the warm-up's outcome, and what comes next."""
        self._console.print(
            f"learnt {summary.conversations} conversations in {summary.seconds:.0f} s; figures: "
            f"{self._folder / 'summary.json'}"
        )
        self._console.print(f"start a run from it: woodshed.Policy({summary.model!r}, adapter={summary.adapter!r})")
