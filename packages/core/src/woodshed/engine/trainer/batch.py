"""A step's request and the sealed sessions → the rollouts to train on, and those left out with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from woodshed.tokens import Row, build_rows, why_untrained
from woodshed.types import SealedSession, StepRequest, WeightedRollout


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRollout:
    """One rollout with its rows and its advantages."""

    rollout_id: str
    advantage: float
    rows: tuple[Row, ...]
    call_advantages: Mapping[str, float] = field(default_factory=dict)
    """Call id → advantage of that call's tokens, instead of the rollout's."""

    def advantages(self, row: Row) -> list[float]:
        """Return the advantage of each position of a row."""
        if not self.call_advantages:
            return [self.advantage] * len(row.token_ids)
        return [self.call_advantages.get(call_id or "", self.advantage) for call_id in row.call_ids]

    @property
    def learns(self) -> bool:
        """Whether any of its trained tokens has an advantage other than 0."""
        if not self.call_advantages:
            return self.advantage != 0 and self.tokens > 0
        return any(
            advantage != 0
            for row in self.rows
            for advantage, is_trained in zip(self.advantages(row), row.trained, strict=True)
            if is_trained
        )

    @property
    def tokens(self) -> int:
        """Number of trained tokens, over all rows."""
        return sum(sum(row.trained) for row in self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingBatch:
    """The rollouts of one optimizer step."""

    rollouts: tuple[TrainedRollout, ...]
    """Rollouts that count; those with advantage 0 give no gradient but count in the loss's normalizers."""
    quarantined: dict[str, str]
    """Rollout id → why it does not count."""
    untrained_calls: int
    """How many calls of these rollouts have no trained token."""

    @property
    def learning(self) -> tuple[TrainedRollout, ...]:
        """Rollouts that give a gradient."""
        return tuple(r for r in self.rollouts if r.learns)

    @property
    def tokens(self) -> int:
        """Number of trained tokens of all rollouts that count."""
        return sum(r.tokens for r in self.rollouts)


def build_batch(request: StepRequest, sessions: Mapping[str, SealedSession]) -> TrainingBatch:
    """Return the step's batch; a rollout that cannot be trained on is quarantined with the reason, without an error."""
    rollouts: list[TrainedRollout] = []
    quarantined: dict[str, str] = {}
    untrained_calls = 0
    for rollout in request.rollouts:
        session = sessions.get(rollout.rollout_id)
        if session is None:
            quarantined[rollout.rollout_id] = "no sealed session"
            continue
        if (advantage := _not_finite(rollout)) is not None:
            quarantined[rollout.rollout_id] = f"advantage is {advantage}"
            continue
        rows = build_rows(session.calls, untrained_call_ids=rollout.untrained_call_ids)
        if not rows:
            quarantined[rollout.rollout_id] = f"no trained tokens: {_why_nothing(rollout, session)}"
            continue
        rollouts.append(
            TrainedRollout(
                rollout_id=rollout.rollout_id,
                advantage=rollout.advantage,
                rows=rows,
                call_advantages=rollout.call_advantages,
            )
        )
        trained_calls = {call_id for row in rows for call_id in row.call_ids if call_id is not None}
        untrained_calls += sum(call.call_id not in trained_calls for call in session.calls)
    return TrainingBatch(rollouts=tuple(rollouts), quarantined=quarantined, untrained_calls=untrained_calls)


def _not_finite(rollout: WeightedRollout) -> float | None:
    return next((a for a in (rollout.advantage, *rollout.call_advantages.values()) if not math.isfinite(a)), None)


def _why_nothing(rollout: WeightedRollout, session: SealedSession) -> str:
    reasons = [
        "the framework threw the answer away" if call.call_id in rollout.untrained_call_ids else why_untrained(call)
        for call in session.calls
    ]
    return "; ".join(sorted({reason for reason in reasons if reason})) or "no call was recorded"
