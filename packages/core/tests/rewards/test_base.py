"""A reward function of the user's: sync or async, slow or wrong."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import Any

import pytest
from builders import call, said, trajectory

from woodshed import Blend, ConfigError, FunctionReward
from woodshed.types import Trajectory


def attempts(count: int) -> list[Trajectory]:
    return [trajectory(f"r{k}", call(said("hello"))) for k in range(count)]


async def values(function: Any, count: int = 2) -> list[float]:
    judgement = await FunctionReward(function).judge_group(attempts(count))
    assert judgement.error is None
    return [score.value for score in judgement.scores]


async def test_sync_and_async_functions_are_rewards() -> None:
    async def later(_: Trajectory) -> float:
        await asyncio.sleep(0)
        return 0.5

    assert await values(lambda t: int(t.rollout_id[1:])) == [0.0, 1.0]
    assert await values(later) == [0.5, 0.5]
    assert await values(lambda t: later(t)) == [0.5, 0.5]
    assert await values(lambda t: True) == [1.0, 1.0]


async def test_none_and_nan_mask_their_rollout_alone() -> None:
    assert await values(lambda t: None if t.rollout_id == "r0" else 1.0) == [1.0]
    assert await values(lambda t: float("nan") if t.rollout_id == "r0" else 1.0) == [1.0]


@pytest.mark.parametrize("wrong", ["0.5", [1.0], object(), Decimal("0.5")], ids=lambda v: type(v).__name__)
async def test_what_is_no_number_is_an_error_that_names_it(wrong: Any) -> None:
    judgement = await FunctionReward(lambda t: wrong).judge_group(attempts(2))

    assert judgement.scores == ()
    assert judgement.error is not None and judgement.error.kind == "TypeError"
    assert f"a {type(wrong).__name__}; expected a number, or None" in judgement.error.message


async def test_a_slow_sync_function_stalls_nobody_else() -> None:
    go = threading.Event()

    def slow(_: Trajectory) -> float:
        assert go.wait(10)
        return 1.0

    judging = asyncio.create_task(values(slow, 1))
    await asyncio.sleep(0)
    go.set()  # this line is reached only where the loop goes on meanwhile

    assert await judging == [1.0]


async def test_a_function_of_two_arguments_gets_the_scenario() -> None:
    scenarios = {"s": {"answer": "hello"}}
    called: list[Any] = []

    def against(trajectory: Trajectory, scenario: Any) -> float:
        called.append(scenario)
        return 1.0

    class Object:
        def __call__(self, trajectory: Trajectory, scenario: Any) -> float:
            return against(trajectory, scenario)

    async def later(trajectory: Trajectory, *, weight: float = 1.0, **_: Any) -> float:
        return weight

    for function in (against, Object(), lambda t, scenario=None: against(t, scenario)):
        reward = FunctionReward(function).bound(base_url="", api_key="", scenarios=scenarios)
        blended = Blend((1.0, reward), (1.0, FunctionReward(later)))
        assert len((await reward.judge_group(attempts(2))).scores) == 2
        bound = blended.bound(base_url="", api_key="", scenarios=scenarios)
        assert [s.value for s in (await bound.judge_group(attempts(1))).scores] == [1.0]
    assert called and all(scenario == scenarios["s"] for scenario in called)
    assert await values(lambda t, weight=0.25: weight) == [0.25, 0.25]  # its own default, and no scenario


async def test_a_scenario_that_is_not_known_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match=r"takes the scenario, and 's' is none of the 0.*scenarios=\{id: scenario\}"):
        await FunctionReward(lambda trajectory, scenario: 1.0).judge_group(attempts(1))


@pytest.mark.parametrize("wrong", [lambda: 1.0, lambda a, b, c: 1.0, lambda t, *, key: 1.0, 0.5, "f"])
def test_what_cannot_be_called_with_a_trajectory_is_refused_at_construction(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected a function"):
        FunctionReward(wrong)


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("x"), SystemExit(3), StopIteration()], ids=repr)
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_exception_masks_its_rollout_alone_and_is_kept(error: BaseException, is_async: bool) -> None:
    def fails_once(trajectory: Trajectory) -> float:
        if trajectory.rollout_id == "r1":
            raise error
        return 1.0

    async def later(trajectory: Trajectory) -> float:
        return fails_once(trajectory)

    judgement = await FunctionReward(later if is_async else fails_once).judge_group(attempts(3))

    assert [s.rollout_id for s in judgement.scores] == ["r0", "r2"]
    assert judgement.error is None and list(judgement.failures) == ["r1"]
    assert type(error).__name__ in f"{judgement.failures['r1']}"


async def test_an_exception_in_every_rollout_is_the_groups_error() -> None:
    judgement = await FunctionReward(lambda t: 1 / 0).judge_group(attempts(2))

    assert judgement.error is not None and judgement.error.kind == "ZeroDivisionError"
