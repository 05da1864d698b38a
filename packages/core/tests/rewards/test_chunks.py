"""A group larger than one request is judged in chunks, and every score stands on one scale."""

from __future__ import annotations

import json
import random

import pytest
from builders import call, said, trajectory
from hypothesis import assume, given
from hypothesis import strategies as st
from loopback_judge import attempts_of, verdict

from woodshed.errors import JudgeError
from woodshed.rewards.aggregate import JudgeScores
from woodshed.rewards.chunks import chunk_size, judge_in_chunks
from woodshed.rewards.ruler import Ruler
from woodshed.rewards.verdict import AttemptScore
from woodshed.types import Trajectory


def answered(number: int) -> Trajectory:
    return trajectory(f"r{number}", call(said(f"quality {number:03d}")))


def quality(text: str) -> int:
    return int(text.split("quality ")[1][:3])


@given(st.integers(3, 40), st.integers(4, 16), st.randoms(use_true_random=False))
async def test_all_attempts_stand_on_one_scale_whatever_each_chunks_own(
    count: int, size: int, draw: random.Random
) -> None:
    """Every chunk is graded by a ruler with a zero and a unit of its own."""
    truth = [place / (count - 1) for place in draw.sample(range(count), count)]
    seen: list[list[int]] = []

    async def judge(places: list[int]) -> JudgeScores:
        unit, zero = draw.uniform(0.5, 1.0), draw.uniform(0.0, 0.2)
        seen.append(places)
        return JudgeScores(scores=tuple(AttemptScore(score=zero + unit * truth[p], explanation="") for p in places))

    judged = await judge_in_chunks(draw.sample(range(count), count), min(size, count), judge)

    first = [truth[p] for p in seen[0]]
    assume(max(first) - min(first) >= 0.11)
    scores = [s.score for s in judged.scores]
    inside = [k for k in range(count) if 1e-9 < scores[k] < 1 - 1e-9]
    assert all((scores[a] < scores[b]) == (truth[a] < truth[b]) for a in inside for b in inside if a != b)
    assert all(len(places) <= size for places in seen)
    assert sorted(p for n, places in enumerate(seen) for p in (places[2:] if n else places)) == list(range(count))


async def test_a_large_group_is_asked_in_chunks_with_two_shared_anchors() -> None:
    asked: list[list[int]] = []

    async def judge(system: str, user: str, schema: object) -> str:
        shown = {i: quality(text) for i, text in attempts_of(user).items()}
        asked.append(sorted(shown.values()))
        return verdict({i: q / 100 for i, q in shown.items()})

    judgement = await Ruler(judge, max_attempts=6).judge_group([answered(n) for n in range(20)])

    assert {s.rollout_id: round(s.value, 6) for s in judgement.scores} == {f"r{n}": n / 100 for n in range(20)}
    anchors = {asked[0][0], asked[0][-1]}
    assert all(anchors <= set(chunk) for chunk in asked)
    assert sum(len(chunk) for chunk in asked) == 20 + 2 * (len(asked) - 1)
    assert max(map(len, asked)) == 6


def test_the_window_bounds_a_chunk() -> None:
    assert chunk_size([10] * 20, 100, max_attempts=16, window=150) == 5
    assert chunk_size([10] * 20, 100, max_attempts=4, window=150) == 4
    assert chunk_size([10] * 20, 100, max_attempts=16, window=None) == 16


async def test_attempts_that_no_window_holds_are_said_and_mask_the_group() -> None:
    with pytest.raises(JudgeError, match=r"3 attempts of up to 100 characters and a task of 50 do not fit"):
        chunk_size([100] * 5, 50, max_attempts=16, window=300)

    async def never(system: str, user: str, schema: object) -> str:
        raise AssertionError("asked")

    judgement = await Ruler(never, window_chars=50).judge_group([answered(n) for n in range(5)])

    assert judgement.error is not None
    assert "raise it as far as the judge's context allows" in judgement.error.message
    assert judgement.scores == ()


async def test_a_failing_chunk_masks_the_group_and_the_others_verdicts_are_kept() -> None:
    replies = 0

    async def judge(system: str, user: str, schema: object) -> str:
        nonlocal replies
        replies += 1
        shown = attempts_of(user)
        return (
            "no idea"
            if is_broken and any("quality 019" in t for t in shown.values())
            else json.dumps(
                {"scores": [{"id": i, "explanation": "", "score": quality(t) / 100} for i, t in shown.items()]}
            )
        )

    group, ruler, is_broken = [answered(n) for n in range(20)], Ruler(judge, max_attempts=6), True
    first = await ruler.judge_group(group)
    asked_first, is_broken = replies, False
    second = await ruler.judge_group(group)

    assert first.error is not None
    assert second.error is None
    # The broken chunk and its repair are asked again; if it was the first chunk, the later ones were not reached yet.
    assert replies - asked_first < 5 or asked_first == 2
    assert len(second.scores) == 20
