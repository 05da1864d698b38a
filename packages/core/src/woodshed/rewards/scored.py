"""The scores of different attempts → a judgement: every trajectory gets its attempt's score, by rollout id."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from woodshed.rewards.aggregate import JudgeScores
from woodshed.rewards.prompt import Transcripts
from woodshed.rewards.transcript import histories
from woodshed.types import Judgement, Score, Trajectory


def by_content(trajectories: Sequence[Trajectory], texts: Transcripts) -> list[list[Trajectory]]:
    """Group trajectories with the same text, in an order that depends on their content only."""
    same: dict[str, list[Trajectory]] = {}
    for text, trajectory in zip(texts.attempts, trajectories, strict=True):
        same.setdefault(text, []).append(trajectory)
    return [same[text] for text in sorted(same)]


def scored(
    contents: Sequence[Sequence[Trajectory]], judged: JudgeScores, unscored: Judgement, tolerance: float
) -> Judgement:
    """Return `unscored` with a score for every trajectory.

    Args:
        contents: trajectories with the same text, one list for each text.
        judged: one score per text.
        unscored: the judgement's other figures.
        tolerance: if all scores lie within this range, each is replaced by their mean.
    """
    value_of = _merge_ties([s.score for s in judged.scores], tolerance)
    scores = [
        Score(
            rollout_id=t.rollout_id,
            value=value_of(attempt.score),
            explanation=attempt.explanation,
            agents=dict(attempt.agents),
            calls=dict(zip(_call_ids(t), attempt.steps, strict=True)) if attempt.steps else {},
        )
        for members, attempt in zip(contents, judged.scores, strict=True)
        for t in members
    ]
    return unscored.model_copy(update={"scores": tuple(scores), "distinct": len(contents)})


def _merge_ties(scores: Sequence[float], tolerance: float) -> Callable[[float], float]:
    """Return a function that keeps a score as it is, or replaces it by the mean if all lie within the tolerance."""
    if max(scores) - min(scores) > tolerance:
        return lambda score: score
    mean = math.fsum(scores) / len(scores)
    return lambda _: mean


def _call_ids(trajectory: Trajectory) -> list[str]:
    return [call_id for history in histories(trajectory) for _, call_id in history.calls]
