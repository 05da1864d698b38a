"""A judge's scores and programmatic ones count together, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from builders import call, said, trajectory
from loopback_judge import attempts_of, verdict

from woodshed.errors import ConfigError
from woodshed.rewards.blend import Blend
from woodshed.rewards.function import FunctionReward
from woodshed.rewards.ruler import Ruler
from woodshed.types import Trajectory


def answered(text: str, **metrics: float) -> Trajectory:
    return trajectory(text, call(said(text))).model_copy(update={"metrics": metrics})


GROUP = (answered("long answer", speed=0.0), answered("short", speed=1.0))


async def likes_long(system: str, user: str, schema: dict[str, Any]) -> str:
    return verdict({i: 0.8 if "long" in text else 0.4 for i, text in attempts_of(user).items()})


async def silent(system: str, user: str, schema: dict[str, Any]) -> str:
    return ""


def speed(trajectory: Trajectory) -> float | None:
    return trajectory.metrics.get("speed")


async def test_the_weighted_mean_counts_and_each_part_is_kept() -> None:
    blend = Blend((3, Ruler(likes_long)), (1, FunctionReward(speed)))

    judgement = await blend.judge_group(GROUP)

    assert {s.rollout_id: pytest.approx(s.value) for s in judgement.scores} == {"long answer": 0.6, "short": 0.55}
    assert judgement.scores[0].parts == {f"{__name__}.likes_long": 0.8, "speed": 0.0}
    assert judgement.judge == f"3 x {__name__}.likes_long + 1 x speed"
    assert judgement.requests == 1


async def test_who_lacks_one_score_has_none() -> None:
    judgement = await Blend((1, Ruler(likes_long)), (1, FunctionReward(speed))).judge_group(
        (*GROUP, answered("longer"))
    )

    assert [s.rollout_id for s in judgement.scores] == ["long answer", "short"]


@pytest.mark.parametrize(
    "parts", [(Ruler(silent), FunctionReward(speed)), (Ruler(likes_long), FunctionReward(lambda t: 1 / 0))]
)
async def test_a_part_that_fails_masks_the_group(parts: Any) -> None:
    judgement = await Blend(*((1, p) for p in parts)).judge_group(GROUP)

    assert judgement.scores == ()
    assert judgement.error is not None
    assert judgement.error.kind in ("JudgeError", "ZeroDivisionError")


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (((1, FunctionReward(speed)),), "has 1 parts"),
        (((1, FunctionReward(speed)), (0, Ruler(silent))), "the weight 0"),
        (((1, FunctionReward(speed)), (float("nan"), Ruler(silent))), "the weight nan"),
        (((1, FunctionReward(speed)), (1, speed)), r"expected a pair \(weight, reward\)"),
        ((Ruler(silent), FunctionReward(speed)), r"expected a pair \(weight, reward\)"),
        (((1, FunctionReward(speed)), (1, FunctionReward(speed))), "two parts of one name"),
    ],
)
def test_what_cannot_be_blended_is_refused(parts: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Blend(*parts)
