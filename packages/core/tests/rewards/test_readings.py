"""A judgement keeps every request that counts: who was shown in which order, and what the judge made of each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from builders import call, said, trajectory
from loopback_judge import LoopbackJudge, attempts_of, grades, labels, says

from woodshed.rewards.blend import Blend
from woodshed.rewards.cache import SqliteCache
from woodshed.rewards.function import FunctionReward
from woodshed.rewards.ruler import Ruler
from woodshed.types import Judgement, Trajectory

HONEST = {"four lamps": 0.9, "some lamps": 0.4, "no idea": 0.0}
GROUP = tuple(trajectory(name, call(said(text))) for name, text in zip(("good", "poor", "bad"), HONEST, strict=True))
TEXT = dict(zip(("good", "poor", "bad"), HONEST, strict=True))


def shown(server: LoopbackJudge) -> Counter[tuple[str, ...]]:
    """Return the orders that the requests really had."""
    name = {text: rollout for rollout, text in TEXT.items()}
    return Counter(
        tuple(name[text.removeprefix("assistant: ")] for text in attempts_of(r["messages"][1]["content"]).values())
        for r in server.requests
    )


async def test_a_group_keeps_each_order_with_scores_and_explanations(server: LoopbackJudge) -> None:
    server.script = [says(grades(HONEST))]

    judgement = await Ruler(server.judge(), permutations=4).judge_group(GROUP)

    assert Counter(r.rollouts for r in judgement.readings) == shown(server)
    for reading in judgement.readings:
        assert reading.judge == "loopback"
        assert reading.scores == tuple(HONEST[TEXT[i]] for i in reading.rollouts)
        assert len(reading.explanations) == 3 and all(e.startswith("why ") for e in reading.explanations)


@pytest.mark.parametrize(("mode", "size"), [("pairs", 2), ("single", 1)])
async def test_the_other_modes_keep_what_each_request_showed(server: LoopbackJudge, mode: str, size: int) -> None:
    server.script = [says(labels({t: 1.0 if t == "four lamps" else 0.0 for t in HONEST}))]

    judgement = await Ruler(server.judge(), mode=mode).judge_group(GROUP)  # type: ignore[arg-type]

    assert Counter(r.rollouts for r in judgement.readings) == shown(server)
    assert {len(r.rollouts) for r in judgement.readings} == {size}
    good = [s for r in judgement.readings for i, s in zip(r.rollouts, r.scores, strict=True) if i == "good"]
    assert good and all(score > 0.9 for score in good)


async def test_verdicts_from_the_cache_are_the_same_readings(server: LoopbackJudge, tmp_path: Path) -> None:
    server.script = [says(grades(HONEST))]
    ruler = Ruler(server.judge(), permutations=2, cache=SqliteCache(tmp_path / "judge.sqlite"))

    first, second = await ruler.judge_group(GROUP), await ruler.judge_group(GROUP)

    assert second.cached and len(second.readings) == 2
    assert second.readings == first.readings


async def test_attempts_of_one_text_stand_in_a_reading_once(server: LoopbackJudge) -> None:
    server.script = [says(grades(HONEST))]
    twin = trajectory("twin", call(said("four lamps")))

    judgement = await Ruler(server.judge()).judge_group([*GROUP, twin])

    (reading,) = judgement.readings
    assert len(reading.rollouts) == 3 and len({"good", "twin"} & set(reading.rollouts)) == 1


async def test_a_blended_reward_keeps_the_readings_of_its_judge(server: LoopbackJudge) -> None:
    server.script = [says(grades(HONEST))]

    def short(t: Trajectory) -> float:
        return 1.0

    judgement = await Blend((1.0, Ruler(server.judge())), (1.0, FunctionReward(short))).judge_group(GROUP)

    assert [len(r.rollouts) for r in judgement.readings] == [3]


def test_a_judgement_of_an_older_woodshed_has_no_readings() -> None:
    assert Judgement.model_validate_json('{"scores": [], "judge": "j"}').readings == ()
