"""The evaluations of a run, by step: which version is the best, and whether it is time to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from woodshed.training.report.interval import Interval, success_text
from woodshed.training.run.adapters import adapter_of
from woodshed.training.run.store import RunStore
from woodshed.types import Record

_STOPPED = "stopped_early"
_SINCE = "patience_since"


class EvaluationFigures(Record):
    """Held-out success after some steps."""

    step: int
    """Optimizer steps taken before it; 0 is before the first one."""
    version: int
    """Version of the weights that were measured."""
    success: float
    interval: Interval | None = None
    """95 % interval of the success, clustered by scenario; None where it is not known."""
    rollouts: int | None = None
    """Rollouts that count."""
    failed: int = 0
    """Those among them that count as 0, because their agent failed or took too long."""
    masked: int = 0
    """Rollouts that count nowhere, because the infrastructure failed."""

    def __str__(self) -> str:
        """Name the success, its interval and the step: `0.700 [0.397, 0.892] after step 4`."""
        when = f"after step {self.step}" if self.step else "before training"
        return f"{success_text(self.success, self.interval)} {when}"


def evaluation_name(step: int) -> str:
    """Return the name of an evaluation between two steps."""
    return f"after_step_{step}"


def evaluations(store: RunStore, history: Sequence[Mapping[str, Any]]) -> tuple[EvaluationFigures, ...]:
    """Return every finished evaluation of a run, in the order of the steps."""
    found = {_step(name, len(history)): name for name in store.facts("success_")}
    return tuple(
        EvaluationFigures(
            step=step,
            version=history[step - 1]["version"] if step else store.fact("start_version") or 0,
            success=store.fact(f"success_{name}"),
            interval=store.fact(f"interval_{name}"),
            rollouts=store.fact(f"rollouts_{name}"),
            failed=store.fact(f"failed_{name}") or 0,
            masked=store.fact(f"masked_{name}") or 0,
        )
        for step, name in sorted(found.items())
        if step <= len(history)
    )


def _step(name: str, steps: int) -> int:
    ends = {"before": 0, "after": steps}
    return ends[name] if name in ends else int(name.rpartition("_")[2])


def best(points: Sequence[EvaluationFigures]) -> EvaluationFigures | None:
    """Return the evaluation of a trained version with the highest success, of equal ones the earliest."""
    return max(trained(points), key=lambda point: (point.success, -point.step), default=None)


def trained(points: Sequence[EvaluationFigures]) -> list[EvaluationFigures]:
    """Return the evaluations of weights that the run has changed."""
    start = min((point.version for point in points if not point.step), default=-1)
    return [point for point in points if point.step and point.version > start]


def not_better(points: Sequence[EvaluationFigures], since: int = 0) -> int:
    """Return how many evaluations in a row, of those after step `since`, were not better than the best one."""
    top = best(points)
    return 0 if top is None else sum(point.step > max(top.step, since) for point in trained(points))


def adapter_folder(store: RunStore, version: int) -> str | None:
    """Return the folder of a version's LoRA: on this machine, or else on the engine's; None if neither is known."""
    if (here := adapter_of(store, version)) is not None:
        return str(here)
    folder = store.fact("checkpoints")
    return str(PurePath(folder) / f"{version:05d}" / "adapter") if folder else None


def stop_early(store: RunStore, patience: int | None, steps: int) -> str | None:
    """Return why the run stops before its last step, if it does, and save that it did."""
    if patience is None:
        return None
    history = store.history()
    points = evaluations(store, history)
    if not_better(points, store.fact(_SINCE) or 0) < patience:
        return None
    fact = {"after": len(history), "steps": steps, "patience": patience, "best": str(best(points))}
    store.save_fact(_STOPPED, fact)
    return _stopped_text(fact)


def is_stopped(store: RunStore, steps: int, patience: int | None) -> bool:
    """Whether a run stopped early, and is asked for no more steps and no other patience than then."""
    fact = store.fact(_STOPPED)
    return fact is not None and steps <= fact["steps"] and patience == fact["patience"]


def go_on(store: RunStore) -> None:
    """Let a run that stopped early go on; its patience starts anew."""
    if (fact := store.fact(_STOPPED)) is not None:
        store.save_fact(_SINCE, fact["after"])
        store.save_fact(_STOPPED, None)


def steps_asked(store: RunStore) -> int:
    """Return the steps that a finished run was asked for: more than it took, if it stopped early."""
    fact = store.fact(_STOPPED)
    return len(store.history()) if fact is None else int(fact["steps"])


def outcome_warnings(store: RunStore, points: Sequence[EvaluationFigures]) -> list[str]:
    """Return what the evaluations of a finished run warn of: that it stopped early, or got nowhere."""
    stopped, top = store.fact(_STOPPED), best(points)
    warnings = [] if stopped is None else [_stopped_text(stopped)]
    if top is not None and not points[0].step and top.success <= points[0].success:
        warnings.append(
            f"no trained version was better on the held-out scenarios than what the run started with: {points[0]}, at "
            f"best {top}"
        )
    return warnings


def _stopped_text(fact: Mapping[str, Any]) -> str:
    return (
        f"stopped after step {fact['after']} of {fact['steps']}: {fact['patience']} held-out evaluations in a row were "
        f"not better than the best, {fact['best']} (Evaluation.patience={fact['patience']})"
    )
