"""Promises of an engine that outlives its runs: none practises or trains another's policy, and each can go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

import woodshed
from woodshed.engine import Engine, EngineClient
from woodshed.errors import DriftError, EngineError, PolicyLost
from woodshed.testing import in_order, say
from woodshed.testing.conformance.engine import SCRIPTED_LOSS, GatewayEngine
from woodshed.training.run.store import RunStore
from woodshed.types import OpenPolicy, OpenSession, StepRequest, WeightedRollout

pytestmark = pytest.mark.slow
MODEL = Path(__file__).parents[3] / "tiny_world/src/woodshed_tiny_world/weights/policy"


@pytest.fixture(scope="module")
def engine(needs_engine: None) -> Iterator[GatewayEngine]:
    engine = GatewayEngine(MODEL).start()
    yield engine
    engine.close()


def other_run(run_id: str, **loss: float) -> OpenPolicy:
    return OpenPolicy(name="policy", run_id=run_id, loss=SCRIPTED_LOSS.model_copy(update=loss))


async def ask(question: str) -> None:
    here = woodshed.current_rollout()
    assert here is not None
    async with openai.AsyncOpenAI(base_url=here.base_url, api_key=here.secret) as client:
        await client.chat.completions.create(model="any", messages=[{"role": "user", "content": question}])


@dataclass(frozen=True, repr=False)
class TakenMeanwhile(woodshed.FunctionReward):
    """Scores a group; while it does, no session is open, and another run opens the policy, once."""

    other: EngineClient | None = None

    def __repr__(self) -> str:
        return "reward"

    async def judge_group(self, trajectories: Sequence[woodshed.Trajectory]) -> woodshed.Judgement:
        if self.other is not None:
            await self.other.open_policy(other_run("other"))
        return await super().judge_group(trajectories)


async def test_a_run_whose_policy_another_run_took_stops_trains_nothing_of_it_and_goes_on_later(
    engine: GatewayEngine, tmp_path: Path
) -> None:
    engine.vllm.play(in_order(say("x"), say("xx")))
    settings: dict[str, Any] = {
        "rollout": woodshed.rollout(ask),
        "scenarios": ["How many lamps?"],
        "policy": woodshed.Policy(str(MODEL)),
        "engine": Engine.connect(engine.url),
        "config": woodshed.TrainConfig(
            steps=1, group_size=2, scenarios_per_step=1, max_staleness=0, loss=SCRIPTED_LOSS
        ),
        "run_dir": tmp_path / "run",
        "checks": False,
    }

    def length(trajectory: woodshed.Trajectory) -> float:
        return float(sum(len(m.token_ids) for c in trajectory.calls for m in c.tokens.completions))

    async with EngineClient(engine.url) as other, EngineClient(engine.url) as nobody:
        with pytest.raises(
            PolicyLost, match=r"'policy' is held by run 'other' now.*same command again once run 'other'"
        ):
            await woodshed.train_async(woodshed.Training(reward=TakenMeanwhile(length, other=other), **settings))
        (untouched,) = (await other.health()).policies
        store = RunStore(tmp_path / "run")
        asked = OpenSession(rollout_id="late", policy="policy", run_id=store.fact("run_id"))
        with pytest.raises(PolicyLost, match="held by run 'other'"):
            await nobody.open_session(asked)
        # Who names no run, and the run that holds it, are served.
        await nobody.open_session(asked.model_copy(update={"run_id": None, "rollout_id": "no-run"}))
        await nobody.seal("no-run")
        assert (await other.open_session(OpenSession(rollout_id="others", policy="policy"))).secret
        await other.seal("others")
    sampled, kept = len(engine.vllm.asked), store.history()
    run = await woodshed.train_async(woodshed.Training(reward=TakenMeanwhile(length), **settings))

    assert (untouched.version, untouched.steps, kept) == (0, (), [])
    assert [(row["version"], row["trained"]) for row in run.history] == [(1, True)]
    assert sampled == len(engine.vllm.asked) == 2


async def test_a_run_is_not_told_of_the_adapter_of_the_run_that_took_its_policy(engine: GatewayEngine) -> None:
    engine.vllm.play(lambda request: say("seven"))
    async with EngineClient(engine.url) as first, EngineClient(engine.url) as second:
        await first.open_policy(other_run("first"))
        await first.step("policy", StepRequest(step_id="1", rollouts=(await practised(first, "first"),)))
        place = await first.adapter("policy")
        await second.open_policy(other_run("second"))
        for ask_first in (first.adapter, first.test_adapter_load):
            with pytest.raises(PolicyLost, match="held by run 'second' now"):
                await ask_first("policy")

    assert "first" in Path(place.path).parts


async def test_what_a_killed_run_left_open_keeps_no_other_run_out_once_it_was_started_again(
    engine: GatewayEngine,
) -> None:
    engine.vllm.play(lambda request: say("seven"))
    async with EngineClient(engine.url) as client, EngineClient(engine.url) as nobody:
        await client.open_policy(other_run("killed"))
        grant = await client.open_session(OpenSession(rollout_id="left", policy="policy", run_id="killed"))
        with pytest.raises(EngineError, match=r"1 rollouts open here; wait until it ends \(one that was killed: 60 s"):
            await client.open_policy(other_run("next"))
        await client.open_policy(other_run("killed"))
        async with openai.AsyncOpenAI(base_url=grant.base_url, api_key=grant.secret) as alive:
            await alive.chat.completions.create(model="any", messages=[{"role": "user", "content": "Still here."}])
        with pytest.raises(EngineError, match="1 rollouts open here"):
            await client.open_policy(other_run("next"))
        await nobody.open_session(OpenSession(rollout_id="of-no-run", policy="policy"))
        await client.open_policy(other_run("killed"))
        with pytest.raises(EngineError, match="1 rollouts open here"):
            await client.open_policy(other_run("next"))
        await nobody.seal("of-no-run")

        assert (await client.open_policy(other_run("next"))).version == 0


async def practised(client: EngineClient, rollout_id: str) -> WeightedRollout:
    """Return a sealed rollout of one call."""
    grant = await client.open_session(OpenSession(rollout_id=rollout_id, policy="policy"))
    async with openai.AsyncOpenAI(base_url=grant.base_url, api_key=grant.secret) as agent:
        await agent.chat.completions.create(model="any", messages=[{"role": "user", "content": "How many lamps?"}])
    await client.seal(rollout_id)
    return WeightedRollout(rollout_id=rollout_id, advantage=1.0)


async def test_a_run_goes_on_where_it_was_with_other_drift_limits_and_kernels_and_with_no_other_settings(
    engine: GatewayEngine,
) -> None:
    engine.vllm.play(lambda request: say("seven"))
    async with EngineClient(engine.url) as client:
        await client.open_policy(other_run("drifting"))
        first = StepRequest(step_id="1", rollouts=(await practised(client, "one"),))
        await client.step("policy", first)
        state = await client.open_policy(other_run("drifting", drift_warn=1e-9, drift_stop=1e-9))
        second = StepRequest(step_id="2", rollouts=(await practised(client, "two"),))
        with pytest.raises(DriftError, match="above 1e-09"):
            await client.step("policy", second)
        await client.open_policy(other_run("drifting").model_copy(update={"kernels": "plain"}))
        report = await client.step("policy", second)
        with pytest.raises(EngineError, match=r"with other settings \(loss, seed differ\)"):
            await client.open_policy(other_run("drifting", kl_coef=0.1).model_copy(update={"seed": 1}))
        answered = (await client.health()).policies

    assert (state.version, state.steps) == (1, ("1",))
    assert (report.version, report.trained) == (2, True)
    assert [policy.steps for policy in answered] == [("1", "2")]
    assert engine.requests[-1].body["model"].startswith("policy@1")
