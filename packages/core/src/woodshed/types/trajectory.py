"""One rollout's record, and the group of rollouts of one scenario."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from woodshed.types.call import ModelCall, ToolCall
from woodshed.types.record import FORMAT, Failure, Record

Status = Literal["completed", "failed", "timed_out"]


class Trajectory(Record):
    """Everything that happened in one rollout of one scenario."""

    format: Literal[1] = FORMAT
    rollout_id: str
    scenario_id: str
    status: Status = "completed"
    calls: tuple[ModelCall, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    output: Any = None
    """What the rollout function returned, if it is plain JSON."""
    metrics: dict[str, float] = Field(default_factory=dict)
    error: Failure | None = None
    """Why the rollout is `failed` or `timed_out`; such a rollout is masked, never rewarded 0."""
    started_s: float = 0.0
    latency_s: float = 0.0


class Score(Record):
    """A judge's verdict on one trajectory."""

    rollout_id: str
    value: float
    """In 0..1, relative to the other trajectories of the group."""
    explanation: str = ""
    agents: dict[str, float] = Field(default_factory=dict)
    """Agent → its score, where the judge was asked to score agents."""
    calls: dict[str, float] = Field(default_factory=dict)
    """Call id → its score, where the judge was asked to score steps."""
    parts: dict[str, float] = Field(default_factory=dict)
    """For a blended reward: name of each part → its score."""


class Reading(Record):
    """One request to a judge: the attempts in the order in which it was shown them, and what it made of each."""

    judge: str
    rollouts: tuple[str, ...]
    """Rollout ids in the order shown. Attempts with the same text are shown once, as the first of them."""
    scores: tuple[float, ...]
    """Of each of `rollouts`, 0 to 1: its score, its grade, or the probability that it is the better one of two."""
    explanations: tuple[str, ...] = ()
    """Of each of `rollouts`; empty where the judge was asked for a label only."""


class Judgement(Record):
    """How a group was judged, and what that cost."""

    scores: tuple[Score, ...] = ()
    judge: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    """None where the judge's price is not known."""
    cached: bool = False
    consistency: float | None = None
    """Share of pairs of attempts whose order the judge kept when it was shown them in another order; None where each
    was shown in one order only."""
    distinct: int | None = None
    """How many different attempts a judge compared; 1 where all are the same and none was asked."""
    readings: tuple[Reading, ...] = ()
    """Every request that counts, with the order it showed the attempts in; empty for a record of an older woodshed."""
    shortened: int = 0
    """How many attempts the judge saw only in part, because they are too long."""
    failures: dict[str, Failure] = Field(default_factory=dict)
    """Rollout id → why it has no score, where the others have one; it alone is masked."""
    error: Failure | None = None
    """Set where there is no usable verdict; the whole group is then masked."""


class Group(Record):
    """All rollouts of one scenario in one step."""

    format: Literal[1] = FORMAT
    group_id: str
    scenario_id: str
    trajectories: tuple[Trajectory, ...]
    judgement: Judgement | None = None
