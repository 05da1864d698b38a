"""A step's request and the sealed sessions → what is trained, what is left out, and the counts of the whole batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from woodshed.tokens import Row, build_rows, why_untrained
from woodshed.types import SealedSession, StepRequest, WeightedRollout


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRollout:
    """One rollout with its rows and its advantage."""

    rollout_id: str
    advantage: float
    rows: tuple[Row, ...]
    call_advantages: Mapping[str, float] = field(default_factory=dict)
    """Call id → advantage of its tokens in place of the rollout's."""

    def advantages(self, row: Row) -> list[float]:
        """Return the advantage of each position of one of its rows."""
        if not self.call_advantages:
            return [self.advantage] * len(row.token_ids)
        return [self.call_advantages.get(call_id or "", self.advantage) for call_id in row.call_ids]

    @property
    def learns(self) -> bool:
        """Whether any of its tokens has an advantage."""
        if not self.call_advantages:
            return self.advantage != 0 and self.tokens > 0
        return any(a != 0 for row in self.rows for a, t in zip(self.advantages(row), row.trained, strict=True) if t)

    @property
    def tokens(self) -> int:
        """Tokens the policy sampled, over all rows."""
        return sum(sum(row.trained) for row in self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingBatch:
    """Everything one optimizer step is made of."""

    rollouts: tuple[TrainedRollout, ...]
    """Rollouts that count; those without an advantage give no gradient but stand in the normalizers."""
    quarantined: dict[str, str]
    """Rollout id → why it does not count."""
    untrained_calls: int
    """Calls of the counted rollouts whose tokens are context only."""

    @property
    def learning(self) -> tuple[TrainedRollout, ...]:
        """Rollouts that give a gradient."""
        return tuple(r for r in self.rollouts if r.learns)

    @property
    def tokens(self) -> int:
        """Trained tokens of all rollouts that count."""
        return sum(r.tokens for r in self.rollouts)


def build_batch(request: StepRequest, sessions: Mapping[str, SealedSession]) -> TrainingBatch:
    """Return the step's batch; what cannot be trained is quarantined with its reason, never an error."""
    rollouts: list[TrainedRollout] = []
    quarantined: dict[str, str] = {}
    untrained_calls = 0
    for asked in request.rollouts:
        session = sessions.get(asked.rollout_id)
        if session is None:
            quarantined[asked.rollout_id] = "no sealed session"
            continue
        if (bad := _not_finite(asked)) is not None:
            quarantined[asked.rollout_id] = f"advantage is {bad}"
            continue
        rows = build_rows(session.calls, untrained_call_ids=asked.untrained_call_ids)
        if not rows:
            quarantined[asked.rollout_id] = f"no trained tokens: {_why_nothing(asked, session)}"
            continue
        rollouts.append(
            TrainedRollout(
                rollout_id=asked.rollout_id,
                advantage=asked.advantage,
                rows=rows,
                call_advantages=asked.call_advantages,
            )
        )
        trained_calls = {call_id for row in rows for call_id in row.call_ids if call_id is not None}
        untrained_calls += sum(call.call_id not in trained_calls for call in session.calls)
    return TrainingBatch(rollouts=tuple(rollouts), quarantined=quarantined, untrained_calls=untrained_calls)


def _not_finite(asked: WeightedRollout) -> float | None:
    return next((a for a in (asked.advantage, *asked.call_advantages.values()) if not math.isfinite(a)), None)


def _why_nothing(asked: WeightedRollout, session: SealedSession) -> str:
    reasons = [
        "the framework threw the answer away" if call.call_id in asked.untrained_call_ids else why_untrained(call)
        for call in session.calls
    ]
    return "; ".join(sorted({reason for reason in reasons if reason})) or "no call was recorded"
