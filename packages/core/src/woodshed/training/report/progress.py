"""What a person sees while a run goes on: one live line of work in hand, one printed line a step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from woodshed.training.report.summary import Summary


@dataclass(slots=True)
class _Work:
    """How far the rollouts of one step are."""

    done: int = 0
    total: int = 0
    judged: int = 0
    is_training: bool = False


class RunProgress:
    """A run's progress on the terminal; plain lines where there is none."""

    def __init__(self, *, folder: Path, steps: int, console: Console | None = None) -> None:
        """Nothing is shown before the block is entered."""
        self._console = console or Console(soft_wrap=True)
        self._folder = folder
        self._steps = steps
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bars.add_task("starting", total=None)
        self._work: dict[int, _Work] = {}
        """Steps in hand; rollouts of later ones run while the earliest is judged and trained."""

    def __enter__(self) -> Self:
        """Start the live line."""
        self._console.print(f"run folder: {self._folder}")
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the live line; on Ctrl-C say how to go on."""
        self._bars.stop()
        if kind is not None:
            why = "" if issubclass(kind, (asyncio.CancelledError, KeyboardInterrupt)) else f" ({kind.__name__})"
            self._console.print(
                f"[bold]stopped[/]{why}; nothing finished is lost, and what was in flight is run again. Run the same "
                f"command again to go on from {self._folder}"
            )

    def engine(self, message: str) -> None:
        """Show what the engine is doing while it starts."""
        self._bars.update(self._task, description=f"engine: {message}", total=None)
        if not self._console.is_terminal:
            self._console.print(f"engine: {message}")

    def measuring(self, name: str, total: int) -> None:
        """Begin an evaluation."""
        self._bars.reset(self._task, description=f"held-out scenarios, {name}", total=total)

    def measured(self, name: str, success: float) -> None:
        """End an evaluation."""
        self._console.print(f"held-out success {name}: [bold]{success:.3f}[/]")

    def counted(self) -> None:
        """Count one rollout of an evaluation."""
        self._bars.advance(self._task)

    def rollouts(self, step: int, total: int) -> None:
        """Begin so many rollouts of a step, or so many more."""
        self._work.setdefault(step, _Work()).total += total
        self._show()

    def rollout(self, step: int) -> None:
        """Count one finished rollout."""
        self._work[step].done += 1
        self._show()

    def judged(self, step: int) -> None:
        """Count one judged group."""
        self._work[step].judged += 1
        self._show()

    def training(self, step: int) -> None:
        """Say that a step's rollouts are being trained."""
        self._work[step].is_training = True
        self._show()

    def _show(self) -> None:
        now, *later = sorted(self._work)
        work = self._work[now]
        doing = "training" if work.is_training else f"rollouts, {work.judged} groups judged"
        ahead = "".join(f"; step {n + 1}: {self._work[n].done}/{self._work[n].total}" for n in later)
        description = f"step {now + 1}/{self._steps}: {doing}{ahead}"
        self._bars.update(self._task, description=description, completed=work.done, total=work.total)

    def say(self, message: str) -> None:
        """Print a line."""
        self._console.print(message)

    def warn(self, findings: Sequence[str]) -> None:
        """Say loudly what the first step showed."""
        for finding in findings:
            self._console.print(Panel(finding, title="step 0: look at this first", border_style="bold red"))

    def step(self, row: dict[str, Any]) -> None:
        """Print one finished step."""
        self._work.pop(row["step"], None)
        reward = "-" if row["reward"] is None else f"{row['reward']:.3f}"
        masked = f"  masked {row['masked']}" if row["masked"] else ""
        unjudged = f"  unjudged groups {row['unjudged_groups']}" if row["unjudged_groups"] else ""
        stale = f"  stale groups {row['stale_groups']}" if row["stale_groups"] else ""
        extra = f"  further groups {row['extra_groups']}" if row["extra_groups"] else ""
        flat = "" if row["trained"] else " (nothing to train)"
        self._console.print(
            f"step {row['step'] + 1:>3}/{self._steps}  judge's score {reward}  LoRA v{row['version']}{flat}"
            f"  {row['rollouts']} rollouts in {row['rollout_s']:.1f} s "
            f"({row['tokens_per_s']:.0f} tokens/s)  trained in {row['train_s']:.1f} s{masked}{unjudged}{stale}{extra}"
        )

    def done(self, summary: Summary) -> None:
        """Print the run's outcome."""
        if summary.success_before is not None and summary.success_after is not None:
            self._console.print(
                f"held-out success [bold]{summary.success_before:.3f} → {summary.success_after:.3f}[/] after "
                f"{summary.steps} steps in {summary.seconds:.0f} s"
            )
        self._console.print(f"figures: {self._folder / 'summary.json'}   plot: {self._folder / 'plot.png'}")
