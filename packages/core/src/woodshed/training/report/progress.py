"""Terminal output of a run: one live progress line, and one printed line per step."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBars
from rich.text import Text

from woodshed.training.report.heartbeat import Heartbeat
from woodshed.training.report.interval import Interval
from woodshed.training.report.step_line import JUDGED, Eta, step_fields, wrapped
from woodshed.training.report.summary import Summary

SILENCE_S = 30.0
"""Seconds without a line, where no live line is, after which a run says what it is doing."""
_log = logging.getLogger("woodshed.training")


@dataclass(slots=True)
class _StepProgress:
    """Progress of one step's rollouts."""

    done: int = 0
    total: int = 0
    judged: int = 0
    is_training: bool = False


@dataclass(slots=True)
class _Evaluation:
    """Progress of an evaluation's rollouts."""

    name: str
    total: int
    started_s: float
    done: int = 0


class RunProgress:
    """A run's progress on the terminal; plain lines if the output is not a terminal."""

    def __init__(
        self,
        *,
        folder: Path,
        steps: int,
        fresh: bool = False,
        console: Console | None = None,
        scored: str = JUDGED,
        silence_s: float = SILENCE_S,
    ) -> None:
        """Prepare; nothing is shown before the block is entered.

        Args:
            folder: The run's folder.
            steps: Steps of the run.
            fresh: Whether the command would start anew if repeated.
            console: Where to print; a quiet one leaves warnings to the log.
            scored: What the scores are called (`score_name`).
            silence_s: Seconds without a line, where no live line is, after which one says what the run does.
        """
        self._console = console or Console(soft_wrap=True)
        self._is_live = self._console.is_terminal and not self._console.quiet
        self.scored = scored
        self._folder = folder
        self._steps = steps
        self._fresh = fresh
        self._bars = ProgressBars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._is_live,
        )
        self._task = self._bars.add_task("starting", total=None)
        self._active: dict[int, _StepProgress] = {}
        """Active steps by number: rollouts of later ones run while the earliest is judged and trained."""
        self._evaluation: _Evaluation | None = None
        """The evaluation in progress; rollouts of the next step may run beside it."""
        self._started_s = 0.0
        self._is_past_first = False
        self._eta = Eta()
        self._clock = self._last_line_s = time.monotonic()
        self._heartbeat = Heartbeat(self._say_what_runs, silence_s / 4)
        self._silence_s = silence_s

    def __enter__(self) -> Self:
        """Start the live line."""
        self._print(f"run folder: {self._folder}", markup=False)
        self._bars.start()
        if not self._is_live and not self._console.quiet:
            self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the live line; after an error or Ctrl-C explain how to resume."""
        self._heartbeat.stop()
        self._bars.stop()
        if kind is not None:
            reason = "" if issubclass(kind, (asyncio.CancelledError, KeyboardInterrupt)) else f" ({kind.__name__})"
            again = "Run the same command " + ("without --fresh (fresh=True)" if self._fresh else "again")
            self._print(
                f"[bold]stopped[/]{reason}; finished work is kept, and unfinished rollouts are repeated. {again} to "
                f"resume from {escape(str(self._folder))}"
            )

    def _print(self, *what: Any, **how: Any) -> None:
        self._last_line_s = time.monotonic()
        self._console.print(*what, **how)

    def _say_what_runs(self) -> None:
        """Print what the live line would show, if nothing was printed for a while."""
        if time.monotonic() - self._last_line_s >= self._silence_s:
            task = self._bars.tasks[0]
            count = "" if task.total is None else f", {task.completed:.0f}/{task.total:.0f}"
            self._print(f"{task.description}{count} (at {time.monotonic() - self._clock:.0f} s)", markup=False)

    def engine(self, message: str) -> None:
        """Show what the engine is doing while it starts."""
        self._bars.update(self._task, description=f"engine: {escape(message)}", total=None)
        if not self._is_live:
            self._print(f"engine: {message}", markup=False)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show what the run does before its first rollout, and how many seconds that took."""
        self._bars.reset(self._task, description=f"{name} …", total=None)
        self._bars.tasks[0].total = None  # `reset` keeps the one before
        if not self._is_live:
            self._print(f"{name} …")
        start = time.perf_counter()
        yield
        self._print(f"{name}: {time.perf_counter() - start:.1f} s")

    def evaluation_started(self, name: str, total: int) -> None:
        """Show that an evaluation of `total` rollouts has started."""
        if not self._started_s:
            self._bars.reset(self._task)  # between steps the clock goes on
        self._evaluation = _Evaluation(name, total, started_s=time.monotonic())
        self._show()
        if not self._is_live:
            self._print(f"held-out scenarios, {name}: {total} rollouts …")

    def evaluation_done(self, name: str, success: float, counted: str, ends: Interval | None = None) -> None:
        """Print the result of an evaluation with its 95 % interval; `counted` says of how many rollouts."""
        took = "" if self._evaluation is None else f", in {time.monotonic() - self._evaluation.started_s:.1f} s"
        self._evaluation = None
        sure = f", 95 % interval {ends[0]:.3f} to {ends[1]:.3f}" if ends is not None else ""
        self._print(f"held-out success {name}: [bold]{success:.3f}[/], {escape(counted)}{sure}{took}")

    def advance(self) -> None:
        """Count one rollout of an evaluation."""
        if self._evaluation is not None:
            self._evaluation.done += 1
            self._show()

    def rollouts_started(self, step: int, count: int) -> None:
        """Count `count` more started rollouts of a step."""
        self._eta.rollouts_started()
        if not self._started_s:
            self._bars.reset(self._task)  # from here on, the clock is that of the steps
            self._started_s = time.perf_counter()
        self._active.setdefault(step, _StepProgress()).total += count
        self._show()

    def rollout_done(self, step: int) -> None:
        """Count one finished rollout."""
        self._active[step].done += 1
        self._show()
        self._show_first(step)

    def group_judged(self, step: int) -> None:
        """Count one judged group."""
        self._active[step].judged += 1
        self._show()

    def training_started(self, step: int) -> None:
        """Show that a step's rollouts are being trained."""
        self._active[step].is_training = True
        self._show()

    def _show_first(self, step: int) -> None:
        """Print a line for each quarter of the first step, where no live line shows it."""
        work = self._active[step]
        if self._is_live or self._is_past_first or step != min(self._active):
            return
        if 4 * work.done // work.total > 4 * (work.done - 1) // work.total:
            seconds = time.perf_counter() - self._started_s
            self._print(f"step {step + 1}/{self._steps}: {work.done}/{work.total} rollouts, {seconds:.0f} s")

    def _show(self) -> None:
        if (evaluation := self._evaluation) is not None:
            description = f"held-out scenarios, {evaluation.name}{self._prefetched(sorted(self._active))}"
            self._update(description, evaluation.done, evaluation.total)
            return
        current, *later = sorted(self._active)
        work = self._active[current]
        groups = "judged" if self.scored == JUDGED else "scored"
        activity = "training" if work.is_training else f"rollouts, {work.judged} groups {groups}"
        description = f"step {current + 1}/{self._steps}: {activity}{self._prefetched(later)}"
        self._update(description, work.done, work.total)

    def _update(self, description: str, completed: int, total: int) -> None:
        self._bars.update(self._task, description=description, completed=completed, total=total)
        # A full bar is no end: judging and training follow, and neither spinner nor clock may stand still.
        self._bars.tasks[0].finished_time = None

    def _prefetched(self, steps: Sequence[int]) -> str:
        return "".join(f"; step {n + 1}: {self._active[n].done}/{self._active[n].total}" for n in steps)

    def message(self, message: str) -> None:
        """Print a line."""
        self._print(message, markup=False)

    def warn(self, findings: Sequence[str]) -> None:
        """Print warnings of the first step in a panel, wrapped to the terminal; as plain lines if there is none.

        A quiet console leaves them to the log.
        """
        for finding in findings:
            if self._console.quiet:
                _log.warning("%s", finding)
            elif self._is_live:
                panel = Panel(Text(finding), title="look at this first", border_style="bold red")
                # A console with soft wrap cuts off what does not fit: the advice at the end.
                self._print(panel, soft_wrap=False, no_wrap=False, crop=False)
            else:
                self._print(f"look at this first: {finding}", markup=False, soft_wrap=True)

    def step_done(self, row: dict[str, Any]) -> None:
        """Print one finished step."""
        self._active.pop(row["step"], None)
        self._is_past_first = True
        left_s = self._eta.step_done(left=self._steps - row["step"] - 1)
        fields = step_fields(row, steps=self._steps, scored=self.scored, left_s=left_s)
        self._print(wrapped(fields, self._console.width if self._is_live else None), markup=False, highlight=False)

    def done(self, summary: Summary) -> None:
        """Print the run's outcome."""
        if text := summary.held_out():
            self._print(f"[bold]{escape(text)}[/] after {summary.steps} steps in {summary.seconds:.0f} s")
        self._print(f"figures: {self._folder / 'summary.json'}   plot: {self._folder / 'plot.png'}", markup=False)
