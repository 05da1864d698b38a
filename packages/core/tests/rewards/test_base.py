"""A reward function of the user's: sync or async, slow or wrong."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import Any

import pytest
from builders import call, said, trajectory

from woodshed import FunctionReward
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
