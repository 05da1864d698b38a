"""Whatever an agent does to end itself is its rollout's failure, and never the run's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

import woodshed
from woodshed.capture import Rollout, rollout
from woodshed.training.rollouts.rollout import run_with_timeout

SCOPE = Rollout(base_url="http://127.0.0.1:9/v1", secret="s", scenario_id="s", rollout_id="r")


async def cancels_itself(_: Any) -> None:
    raise asyncio.CancelledError


async def leaves(_: Any) -> None:
    sys.exit(3)


def leaves_from_a_thread(_: Any) -> None:
    sys.exit("no key")


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (cancels_itself, "CancelledError although the run did not cancel it.*masked"),
        (leaves, r"sys.exit\(3\).*masked"),
        (leaves_from_a_thread, r"sys.exit\('no key'\).*masked"),
    ],
)
async def test_an_agent_that_ends_itself_is_a_failed_rollout(agent: Callable[..., Any], said: str) -> None:
    siblings = [
        asyncio.create_task(run_with_timeout(rollout(each), "q", SCOPE, 5.0)) for each in (agent, lambda _: "done")
    ]

    failed, done = await asyncio.gather(*siblings, return_exceptions=True)

    assert isinstance(failed, woodshed.RolloutError)
    with pytest.raises(woodshed.RolloutError, match=said):
        raise failed
    assert done == "done"


async def test_a_run_that_is_cancelled_still_cancels_its_rollouts() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def waits(_: Any) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    running = asyncio.create_task(run_with_timeout(rollout(waits), "q", SCOPE, 60.0))
    await asyncio.wait_for(begun.wait(), 5)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.wait_for(ended.wait(), 5)
