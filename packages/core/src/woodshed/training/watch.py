"""What shows only over several steps: attempts that read each other's text, and steps that train nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from woodshed.errors import NothingToLearn
from woodshed.training.report.shared_state import shared_state
from woodshed.types import Trajectory


@dataclass(kw_only=True, slots=True)
class RunWatch:
    """What one process has seen of its run so far; a resumed run starts anew."""

    stop_after: int | None
    """Steps in a row that train nothing after which the run stops; None never stops it."""
    previous: Sequence[Trajectory] = ()
    """The rollouts of the batch before, or of an evaluation."""
    _is_shared: bool = False
    _reasons: list[str] = field(default_factory=list)

    def shared_state(self, trajectories: Sequence[Trajectory]) -> list[str]:
        """Return warnings about rollouts that read the text of this or the previous batch's; once in a process."""
        previous, self.previous = self.previous, trajectories
        if self._is_shared:
            return []
        warnings = shared_state([*previous, *trajectories])
        self._is_shared = bool(warnings)
        more = f" The same is seen in {len(warnings) - 1} more scenarios." if len(warnings) > 1 else ""
        return [warning + more for warning in warnings[:1]]

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Also compare the next batch with these rollouts, those of an evaluation."""
        self.previous = (*self.previous, *trajectories)

    def step_taken(self, step: int, reason: str | None, *, left: int) -> None:
        """Count a step; `reason` says why it trained nothing, and is None if it trained.

        Raises:
            NothingToLearn: as many steps in a row trained nothing as the settings allow, and `left` more are to come.
        """
        self._reasons = [*self._reasons, reason] if reason is not None else []
        if self.stop_after is None or len(self._reasons) < self.stop_after or not left:
            return
        raise NothingToLearn(
            f"{len(self._reasons)} steps in a row, up to step {step + 1}, trained nothing. In the last one: {reason}. "
            f"The run stops here, with {left} steps to go; all finished work is kept. Once the cause is mended, run "
            "the same command again: it continues after them. TrainConfig(stop_after_flat_steps=None) goes on anyway"
        )
