"""The user's function is called with the row of each step, sync or async, and its exception is the user's."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import woodshed
from woodshed.errors import ConfigError
from woodshed.training.on_step import called

ROW = {"step": 0, "reward": 0.5}


async def test_a_sync_and_an_async_function_get_a_row_of_their_own() -> None:
    rows: list[dict[str, Any]] = []

    async def keep(row: dict[str, Any]) -> None:
        rows.append(row)

    class Keeper:
        async def __call__(self, row: dict[str, Any]) -> None:
            rows.append(row)

    for function in (rows.append, keep, Keeper(), lambda row: keep(row)):
        await called(function, ROW)
    await called(None, ROW)

    assert rows == [ROW] * 4
    assert all(row is not ROW for row in rows)


async def test_a_slow_sync_function_holds_no_rollout_up() -> None:
    is_up, may_end = threading.Event(), threading.Event()

    def slow(row: dict[str, Any]) -> None:
        is_up.set()
        assert may_end.wait(30)

    calling = asyncio.create_task(called(slow, ROW))
    await asyncio.to_thread(is_up.wait)
    may_end.set()  # reached only because the loop goes on meanwhile
    await calling


@pytest.mark.parametrize(("raised", "expected"), [(KeyError("mine"), KeyError), (StopIteration(), RuntimeError)])
async def test_what_it_raises_is_the_users(raised: Exception, expected: type[Exception]) -> None:
    def fails(row: dict[str, Any]) -> None:
        raise raised

    with pytest.raises(expected):
        await called(fails, ROW)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"on_step is \[\]; expected a function of a step's row"):
        woodshed.Training(
            rollout=print, scenarios=["a"], policy=woodshed.Policy("m"), reward=woodshed.FunctionReward(lambda t: 1.0),
            on_step=[],
        )  # fmt: skip
