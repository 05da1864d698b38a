"""Weights that change under a running policy: recorded versions, true log-probabilities, no failed call."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest
import torch
from peft import PeftModel
from shop import POLICY, TOOLS, WEIGHTS, RunningEngine, question
from transformers import AutoModelForCausalLM

from woodshed.errors import EngineError
from woodshed.testing.waiting import eventually
from woodshed.types import LoraSettings, OpenPolicy, StepRequest, TokenCall, WeightedRollout

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


def truth(call: TokenCall, adapter: Path | None) -> list[float]:
    """Return what the model itself, run by transformers and PEFT, gives each sampled token."""
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    done = call.completions[0].token_ids
    ids = torch.tensor([[*call.prompt_ids, *done]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(call.prompt_ids) - 1 : -1] / call.sampling["temperature"]
    return torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(done)[:, None])[:, 0].tolist()


def adapter_of(engine: RunningEngine, call: TokenCall) -> Path | None:
    """Return the adapter that a call says it was answered by."""
    version = call.completions[0].weight_versions[0]
    return engine.home / f"policies/policy/run/checkpoints/{version:05d}/adapter" if version else None


async def test_logprobs_are_those_of_the_distribution_that_was_sampled(engine: RunningEngine) -> None:
    async with engine.session(sampling={"temperature": 0.7}) as session:
        await session.ask(tools=TOOLS)
        (call,) = (await session.seal()).calls

    assert call.completions[0].logprobs == pytest.approx(truth(call, adapter_of(engine, call)), abs=2e-3)


async def test_after_a_step_the_next_call_has_the_new_weights_and_says_so(engine: RunningEngine) -> None:
    state = await engine.client.open_policy(POLICY)
    for number in range(3):
        report = await engine.train_step(f"next-{number}")
        async with engine.session(sampling={"temperature": 0.7}) as session:
            await session.ask(tools=TOOLS)
            (call,) = (await session.seal()).calls

        assert report.version == state.version + number + 1
        assert set(call.completions[0].weight_versions) == {report.version}
        # The same prompt was answered by the version before: a stale prefix cache would show here.
        assert call.completions[0].logprobs == pytest.approx(truth(call, adapter_of(engine, call)), abs=2e-3)


async def test_a_step_is_taken_once_however_often_it_is_asked_for(engine: RunningEngine) -> None:
    await engine.client.open_policy(POLICY)
    first = await engine.train_step("once")
    swaps = (await engine.client.health()).lora_swaps
    again = await engine.train_step("once")

    assert again == first
    assert (await engine.client.health()).lora_swaps == swaps


async def test_swaps_under_load_fail_no_call_and_each_call_has_one_version(engine: RunningEngine) -> None:
    await engine.client.open_policy(POLICY)
    stop, reports, begun, ended = asyncio.Event(), [], 0, 0

    async def caller() -> list[TokenCall]:
        nonlocal begun, ended
        async with engine.session() as session:
            while not stop.is_set():
                begun = number = begun + 1
                await session.ask(tools=TOOLS, extra_body={"ignore_eos": True})
                ended = max(ended, number)
            return list((await session.seal()).calls)

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    for number in range(4):
        reports.append(await engine.train_step(f"load-{number}"))
        until = begun
        await eventually(lambda until=until: ended > until, "a call was begun and answered since the swap")
    stop.set()
    calls = [call for done in await asyncio.gather(*callers) for call in done]

    assert all(call.error is None for call in calls)
    seen = [set(call.completions[0].weight_versions) for call in calls]
    assert all(len(versions) == 1 for versions in seen)
    assert {report.version for report in reports} <= set().union(*seen)
    # Around a swap, one batch mixes two versions: the last calls of the old one and the first of the new.
    for report in reports[-2:]:
        by_start = sorted(calls, key=lambda call: call.started_s)
        last = [call for call in by_start if report.version - 1 in call.completions[0].weight_versions][-2:]
        first = [call for call in by_start if report.version in call.completions[0].weight_versions][:2]
        for call in (*last, *first):
            assert call.completions[0].logprobs == pytest.approx(truth(call, adapter_of(engine, call)), abs=2e-3)


async def test_one_long_call_over_three_swaps_keeps_its_version_and_holds_no_later_call_up(
    engine: RunningEngine, tmp_path: Path
) -> None:
    """Three versions of the LoRA are in use at once: the newest answers while calls of both others still run."""
    await engine.client.open_policy(POLICY)
    first = (await engine.train_step("long-0")).version
    kept = shutil.copytree(engine.home / f"policies/policy/run/checkpoints/{first:05d}/adapter", tmp_path / "first")
    # Sampled before, so that the steps below are short.
    practised = [[await engine.one_rollout() for _ in range(2)] for _ in range(3)]
    endless = {"max_tokens": 900, "extra_body": {"ignore_eos": True}}

    async def swap(number: int) -> int:
        pair = practised[number]
        weighted = tuple(WeightedRollout(rollout_id=r.rollout_id, advantage=2.0 * k - 1) for k, r in enumerate(pair))
        request = StepRequest(step_id=f"long-{number + 1}", rollouts=weighted)
        return (await engine.client.step("policy", request)).version

    async with engine.session() as oldest, engine.session() as middle, engine.session() as newest:
        running = [asyncio.create_task(oldest.ask(**endless))]
        await engine.answers_a_later_call()
        await swap(0)
        running.append(asyncio.create_task(middle.ask(**endless)))
        await engine.answers_a_later_call()
        await swap(1)
        await newest.ask()
        are_running = [not task.done() for task in running]
        last = await swap(2)
        await newest.ask()
        await asyncio.gather(*running)
        (long_call,), (middle_call,), new = [(await one.seal()).calls for one in (oldest, middle, newest)]

    assert are_running == [True, True]
    calls = [long_call, middle_call, *new]
    seen = [set(call.completions[0].weight_versions) for call in calls]
    assert (seen, last) == ([{first}, {first + 1}, {first + 2}, {first + 3}], first + 3)
    for call, adapter in ((long_call, kept), *((call, adapter_of(engine, call)) for call in calls[1:])):
        assert call.completions[0].logprobs == pytest.approx(truth(call, adapter), abs=2e-3)


async def test_old_versions_are_unloaded(engine: RunningEngine) -> None:
    await engine.client.open_policy(POLICY)
    version = (await engine.train_step("unloading")).version

    async def only_the_newest() -> bool:
        server = engine.server()
        async with httpx.AsyncClient(trust_env=False) as http:
            headers = {"authorization": f"Bearer {server['key']}"}
            cards = (await http.get(f"{server['url']}/v1/models", headers=headers)).json()["data"]
        return [card["id"] for card in cards] == ["policy", f"policy@{version}"]

    await eventually(only_the_newest, f"vLLM holds no adapter but version {version}")
    async with engine.untracked() as client:
        answer = await client.chat.completions.create(**question(model="policy"))

    assert answer.model == "policy"


async def test_a_rank_that_vllm_was_not_started_for_is_refused(engine: RunningEngine) -> None:
    with pytest.raises(EngineError, match=r"rank 64.*max_lora_rank"):
        await engine.client.open_policy(OpenPolicy(name="policy", lora=LoraSettings(rank=64)))


async def test_a_model_that_is_not_trainable_cannot_be_opened(engine: RunningEngine) -> None:
    with pytest.raises(EngineError, match="trainable"):
        await engine.client.open_policy(OpenPolicy(name="judge"))
