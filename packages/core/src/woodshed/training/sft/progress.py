"""Terminal output of SFT: one live progress line, and one printed line per epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.training.config import Policy
from woodshed.training.report.progress import RunProgress
from woodshed.training.sft.summary import SftSummary


class SftProgress(RunProgress):
    """The progress of SFT on the terminal; plain lines if the output is not a terminal."""

    def __init__(self, *, folder: Path, epochs: int, fresh: bool = False, console: Console | None = None) -> None:
        """Prepare; nothing is shown before the block is entered."""
        super().__init__(folder=folder, steps=epochs, fresh=fresh, console=console)

    def import_started(self, total: int) -> None:
        """Show that conversations are being imported into the engine."""
        self._bars.reset(self._task, description="rendering conversations", total=total)

    def epoch_started(self, epoch: int, batches: int) -> None:
        """Show that an epoch has started."""
        self._bars.reset(self._task, description=f"epoch {epoch + 1}/{self._steps}", total=batches)

    def epoch_done(self, epoch: int, loss: float, rows: Sequence[dict[str, Any]], held_out: float | None) -> None:
        """Print the result of an epoch."""
        tokens = sum(row["trained_tokens"] for row in rows)
        measured = "" if held_out is None else f"  held-out loss [bold]{held_out:.4f}[/]"
        size = f"{len(rows)} steps, {tokens:.0f} tokens"
        self._console.print(f"epoch {epoch + 1}/{self._steps}  loss [bold]{loss:.4f}[/]{measured}  {size}")

    def measured_before(self, held_out: float | None) -> None:
        """Print the held-out loss before training, in nats per token."""
        if held_out is not None:
            self._console.print(f"held-out loss before: [bold]{held_out:.4f}[/]")

    def finished(self, summary: SftSummary, policy: Policy) -> None:
        """Print the outcome and how to start a run from it."""
        self._console.print(
            f"trained on {summary.conversations} conversations in {summary.seconds:.0f} s; figures: "
            f"{self._folder / 'summary.json'}"
        )
        self._console.print(f"start a run from it: woodshed.{start_of(policy, summary.adapter)}", markup=False)


def start_of(policy: Policy, adapter: str) -> str:
    """Return, as code, the policy that starts from an adapter: with what changes its prompts or the LoRA's shape."""
    default = Policy(policy.model)
    same = {name: getattr(policy, name) for name in ("chat_template", "lora")}
    told = [f", {name}={value!r}" for name, value in same.items() if value != getattr(default, name)]
    return f"Policy({policy.model!r}, adapter={adapter!r}{''.join(told)})"
