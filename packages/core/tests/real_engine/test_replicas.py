"""Two real vLLM servers of one policy: one door, one version of the weights, and one that dies."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from shop import POLICY, TOOLS, WEIGHTS, RunningEngine, kill

from woodshed.engine import Engine, ServedModel
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
        asking = [
            asyncio.create_task(one.ask(tools=TOOLS, max_tokens=600, extra_body={"ignore_eos": True}))
            for one in sessions
            for _ in range(2)
        ]

        async def both_at_work() -> bool:
            (model,) = (await pair.client.health()).models
            return all(replica.in_flight for replica in model.replicas)

        await eventually(both_at_work, "both replicas answer calls")
        kill(pair.server("policy#1")["pid"])
        answers = await asyncio.gather(*asking)
        sealed = [await one.seal() for one in sessions]

    async def back() -> bool:
        (model,) = (await pair.client.health()).models
        return [replica.state for replica in model.replicas] == ["ready", "ready"]

    await eventually(back, "the killed replica is back", 240, every_s=0.5)
    report = await pair.train_step("pair-2")
    health = await pair.client.health()

    assert all(answer.choices for answer in answers)
    assert [call.error for one in sealed for call in one.calls] == [None] * 6
    assert {v for one in sealed for c in one.calls for v in c.completions[0].weight_versions} == {version}
    assert health.failed_calls == 0 and health.models[0].restarts == 1
    assert report.version == version + 1
    assert report.metrics["replicas_left_out"] == 0 and report.metrics["swap_s"] > 0
