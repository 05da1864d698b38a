"""Whatever an agent does to end itself is its rollout's failure, and never the run's."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import woodshed
from woodshed.capture import Rollout, rollout
from woodshed.engine import EngineClient
from woodshed.testing.loopback import LoopbackHandler, LoopbackServer
from woodshed.testing.waiting import eventually
from woodshed.training.doctor.weights import sample
from woodshed.training.rollouts.rollout import run_rollout, run_with_timeout

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


class Opening(LoopbackServer):
    """An engine whose answer to the first request, which opens a session, is held back."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), OpeningHandler)
        self.asked, self.answered = list[str](), list[str]()
        self.go_on = threading.Event()


class OpeningHandler(LoopbackHandler):
    server: Opening

    def do_POST(self) -> None:
        request = self.read_json() if int(self.headers.get("content-length") or 0) else {}
        step = self.path.rsplit("/", 1)[1]
        self.server.asked.append(step)
        if step == "sessions":
            self.server.go_on.wait(60)
        self.server.answered.append(step)
        grant = {"rollout_id": request.get("rollout_id", "r"), "secret": "s", "base_url": "http://127.0.0.1:9/v1"}
        self.send_json(200, grant if step == "sessions" else {"rollout_id": "r", "calls": []})


def a_rollout(client: EngineClient) -> Coroutine[Any, Any, object]:
    return run_rollout(
        rollout(lambda _: None), "s", scenario_id="s", client=client, policy="p", sampling={}, timeout_s=9.0
    )


def a_probe(client: EngineClient) -> Coroutine[Any, Any, object]:
    return sample(client, "p", {})


@pytest.mark.parametrize("asks", [a_rollout, a_probe])
async def test_what_is_cancelled_while_its_session_is_opened_leaves_none_open(
    asks: Callable[[EngineClient], Coroutine[Any, Any, object]],
) -> None:
    server = Opening()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    async with EngineClient(f"http://127.0.0.1:{server.server_address[1]}") as client:
        task = asyncio.create_task(asks(client))
        await eventually(lambda: server.asked == ["sessions"], "the session is being opened")
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)  # enough for a seal that waits for nothing
        server.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    server.shutdown()
    server.server_close()
    assert server.answered == ["sessions", "seal"]
