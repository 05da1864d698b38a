"""The finished rollouts of a run's folder with their scores, read without changing anything in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from woodshed.errors import ConfigError
from woodshed.training.run.read_store import ReadStore
from woodshed.training.run.settings import read_settings
from woodshed.training.sft.dataset import Choice
from woodshed.types import Judgement, Score, Trajectory

_HIDDEN = re.compile(r"(aside|failed)-")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRollout:
    """One finished rollout of a run."""

    slot: str
    """`step/scenario/number`; an evaluation's begins with `before`, `after` or `after-step-4`."""
    trajectory: Trajectory
    score: Score | None

    @property
    def group(self) -> str:
        """`step/scenario`: what the attempts at one scenario have in common."""
        return self.slot.rpartition("/")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRun:
    """A run's folder."""

    folder: Path
    agent: str
    """Name of the rollout function."""
    model: str | None
    """The policy's base model."""


def stored_run(folder: Path) -> StoredRun:
    """Return the run in a folder.

    Raises:
        ConfigError: there is none.
    """
    if not (folder / "run.sqlite").is_file():
        raise ConfigError(
            f"{str(folder)!r} holds no run: there is no run.sqlite in it. Expected the folder of a run, such as "
            "runs/support; `woodshed train` prints it"
        )
    config = folder / "config.json"
    settings = read_settings(config) if config.is_file() else {}
    name = (settings.get("rollout") or {}).get("name") or folder.resolve().name
    policy = settings.get("policy")
    return StoredRun(folder=folder, agent=name, model=policy.get("model") if isinstance(policy, dict) else None)


def stored_rollouts(run: StoredRun, *, step: str | None = None, best: bool = False) -> Iterator[StoredRollout]:
    """Yield a run's rollouts in order of step and scenario; those that were set aside are no part of it.

    Args:
        run: The run.
        step: Number of a step as it is printed, from 1, or an evaluation: `before`, `after`, `after-step-4`. None is
            every step, and no evaluation.
        best: Only the best rollout of each judged group whose scores differ.

    Raises:
        ConfigError: there is no such rollout; the message says which there are.
    """
    with ReadStore(run.folder) as store:
        slots = [slot for (slot,) in store.rows("SELECT slot FROM trajectories") if not _HIDDEN.match(slot)]
        wanted = sorted((slot for slot in slots if _is_wanted(slot, step)), key=_order)
        scores, chosen = _scores(store)
        found = 0
        for slot in wanted:
            ((rollout_id, body),) = store.rows("SELECT rollout_id, body FROM trajectories WHERE slot = ?", slot)
            if best and rollout_id not in chosen:
                continue
            found += 1
            yield StoredRollout(
                slot=slot, trajectory=Trajectory.model_validate_json(body), score=scores.get(rollout_id)
            )
    if not found:
        raise ConfigError(_nothing(run.folder, slots, step, best=best and bool(wanted)))


def _scores(store: ReadStore) -> tuple[dict[str, Score], set[str]]:
    """Return every score by its rollout, and the best rollouts of the groups whose scores differ."""
    scores, chosen = dict[str, Score](), set[str]()
    for group, body in store.rows("SELECT group_id, body FROM judgements"):
        judgement = Judgement.model_validate_json(body)
        if not _HIDDEN.match(group) and judgement.error is None:
            scores |= {score.rollout_id: score for score in judgement.scores}
            chosen |= set(Choice(top=1).of(judgement))
    return scores, chosen


def _is_wanted(slot: str, step: str | None) -> bool:
    first = slot.partition("/")[0]
    return first.isdigit() if step is None else _printed(first) == step


def _printed(first: str) -> str:
    """Return the first part of a slot as it is printed: steps are stored from 0, and counted from 1."""
    return str(int(first) + 1) if first.isdigit() else first


def _order(slot: str) -> tuple[Any, ...]:
    step, _, rest = slot.partition("/")
    scenario, _, number = rest.rpartition("/")
    return (int(step) if step.isdigit() else -1, step, scenario, int(number) if number.isdigit() else 0)


def _nothing(folder: Path, slots: list[str], step: str | None, *, best: bool) -> str:
    if best:
        return (
            f"no group of the run in {str(folder)!r} has a best rollout: none is judged with scores that differ. Leave "
            "--best out to have every rollout"
        )
    there = [_printed(first) for first in sorted({s.partition("/")[0] for s in slots}, key=lambda s: _order(f"{s}//"))]
    asked = "a step" if step is None else f"step {step!r}"
    return f"the run in {str(folder)!r} has no finished rollout of {asked}; there are {there or 'none at all'}"
