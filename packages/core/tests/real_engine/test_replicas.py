"""Two real vLLM servers of one policy: one door, one version of the weights, one that dies, and one that refuses."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import count
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio
from shop import POLICY, TOOLS, WEIGHTS, RunningEngine, Session, kill, question

from woodshed.engine import Engine, ServedModel
from woodshed.errors import EngineError
from woodshed.testing.waiting import eventually

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningEngine]:
    """Run an engine that serves the tiny policy twice."""
    home = tmp_path_factory.mktemp("pair")
    model = ServedModel(name="policy", path=str(WEIGHTS), trainable=True, replicas=2, max_num_seqs=16)
    async with Engine.local(python=sys.executable).running([model], home) as client:
        yield RunningEngine(client=client, home=home)


async def test_rollouts_stay_on_their_replica_and_meet_their_own_prompt_in_its_cache(pair: RunningEngine) -> None:
    async def rollout() -> set[str]:
        async with pair.session() as session:
            answers = [
                await session.agent.chat.completions.with_raw_response.create(
                    model="policy", max_tokens=4, tools=TOOLS,
                    messages=[{"role": "user", "content": f"{session.grant.rollout_id} " + "and the Harp? " * 20}],
                )
                for _ in range(3)
            ]  # fmt: skip
            await session.seal()
        return {answer.headers["x-woodshed-replica"] for answer in answers}

    (before,) = (await pair.client.health()).models
    seen = await asyncio.gather(*(rollout() for _ in range(6)))
    (model,) = (await pair.client.health()).models

    assert [replica.calls for replica in before.replicas] == [0, 0]
    assert all(len(replicas) == 1 for replicas in seen) and set().union(*seen) == {"1", "2"}
    # Each rollout's second and third call are all but their last block in the cache of its replica.
    assert all(replica.cached_calls is not None and replica.cached_calls >= 2 / 3 for replica in model.replicas)
    assert sum(replica.calls for replica in model.replicas) == 18


async def test_a_replica_that_is_killed_costs_no_call_and_has_the_newest_weights_when_it_is_back(
    pair: RunningEngine,
) -> None:
    await pair.client.open_policy(POLICY)
    version = (await pair.train_step("pair-1")).version
    async with pair.session() as first, pair.session() as second, pair.session() as third:
        sessions = (first, second, third)
        is_killed = asyncio.Event()

        async def keep_asking(one: Session) -> list[Any]:
            given = [await one.ask(tools=TOOLS, max_tokens=600, extra_body={"ignore_eos": True})]
            # On a busy machine a call may be over before both replicas are seen to answer one.
            while not is_killed.is_set():
                given.append(await one.ask(tools=TOOLS, max_tokens=600, extra_body={"ignore_eos": True}))
            return given

        asking = [asyncio.create_task(keep_asking(one)) for one in sessions for _ in range(2)]

        async def both_at_work() -> bool:
            (model,) = (await pair.client.health()).models
            return all(replica.in_flight for replica in model.replicas)

        await eventually(both_at_work, "both replicas answer calls")
        kill(pair.server("policy#1")["pid"])
        is_killed.set()
        answers = [answer for given in await asyncio.gather(*asking) for answer in given]
        sealed = [await one.seal() for one in sessions]

    async def back() -> bool:
        (model,) = (await pair.client.health()).models
        return [replica.state for replica in model.replicas] == ["ready", "ready"]

    await eventually(back, "the killed replica is back", 240, every_s=0.5)
    report = await pair.train_step("pair-2")
    health = await pair.client.health()

    assert all(answer.choices for answer in answers)
    assert [call.error for one in sealed for call in one.calls] == [None] * len(answers)
    assert {v for one in sealed for c in one.calls for v in c.completions[0].weight_versions} == {version}
    assert health.failed_calls == 0 and health.models[0].restarts == 1
    assert report.version == version + 1
    assert report.metrics["replicas_left_out"] == 0 and report.metrics["swap_s"] > 0


async def test_a_replica_that_refuses_new_weights_leaves_all_at_the_old_ones_until_it_takes_them(
    pair: RunningEngine,
) -> None:
    await pair.client.open_policy(POLICY)
    served = (await pair.train_step("all-or-nothing-1")).version
    with no_file_can_be_opened(pair.server("policy#2")["pid"]):
        with pytest.raises(EngineError, match=rf"'policy#2' did not load adapter version {served + 1}.*Too many open"):
            await pair.train_step("all-or-nothing-2")
        after_refusal = await answers(pair)
        (model,) = (await pair.client.health()).models
        (policy,) = (await pair.client.health()).policies
    await eventually(lambda: none_holds(pair, served + 1), "the replica that took the new weights has dropped them")
    report = await pair.train_step("all-or-nothing-2")
    afterwards = await answers(pair)

    assert after_refusal == {("1", served), ("2", served)}
    assert [replica.state for replica in model.replicas] == ["ready", "ready"]
    assert policy.version == served + 1  # the step is taken and kept; the same request gives it to vLLM
    assert report.version == served + 1 and report.metrics["replicas_left_out"] == 0
    assert afterwards == {("1", served + 1), ("2", served + 1)}


@contextmanager
def no_file_can_be_opened(server: int) -> Iterator[None]:
    """Leave a vLLM server's engine core without a free file handle: it answers calls, and cannot read a LoRA."""
    (core,) = (child.pid for child in psutil.Process(server).children(recursive=True) if "EngineCore" in child.name())
    usual = resource.prlimit(core, resource.RLIMIT_NOFILE)
    used = {int(one) for one in os.listdir(f"/proc/{core}/fd")}
    resource.prlimit(core, resource.RLIMIT_NOFILE, (next(n for n in count() if n not in used), usual[1]))
    try:
        yield
    finally:
        resource.prlimit(core, resource.RLIMIT_NOFILE, usual)


async def answers(pair: RunningEngine) -> set[tuple[str, int]]:
    """Return replica and version of the weights of the answers to four rollouts that are open at the same time."""
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(pair.session()) for _ in range(4)]
        replicas = [
            (await one.agent.chat.completions.with_raw_response.create(**question())).headers["x-woodshed-replica"]
            for one in sessions
        ]
        sealed = [await one.seal() for one in sessions]
    return {
        (replica, version)
        for replica, one in zip(replicas, sealed, strict=True)
        for version in one.calls[0].completions[0].weight_versions
    }


async def none_holds(pair: RunningEngine, version: int) -> bool:
    """Whether no server has a version of the weights loaded, by its own word."""
    listed = []
    async with httpx.AsyncClient(trust_env=False) as http:
        for server in (pair.server("policy#1"), pair.server("policy#2")):
            answer = await http.get(f"{server['url']}/v1/models", headers={"authorization": f"Bearer {server['key']}"})
            listed += [card["id"] for card in answer.json()["data"]]
    assert "policy" in listed
    return f"policy@{version}" not in listed
