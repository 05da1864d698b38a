"""A LangGraph agent on the real engine: both planes of every call are there, and the agent notices nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
import pytest_asyncio
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from woodshed.capture import Rollout, assemble, bind
from woodshed.engine import EngineClient
from woodshed.types import OpenPolicy, OpenSession, Trajectory
from woodshed_langgraph import wrap
from woodshed_tiny_world.agent import build_agent

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

AGENT: Any = wrap(build_agent())


@pytest.fixture(autouse=True)
def hooked() -> None:
    """Other tests of the same session take the hooks back."""
    wrap(AGENT)


def question(item: str) -> dict[str, Any]:
    return {"messages": [("user", f"Is the {item} still in stock?")]}


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def opened(engine: EngineClient) -> None:
    await engine.open_policy(OpenPolicy(name="policy"))


class Practice:
    """One rollout on the engine, and its trajectory once it is over."""

    trajectory: Trajectory

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout

    @contextmanager
    def bound(self) -> Iterator[None]:
        with bind(self.rollout):
            yield


async def practice(engine: EngineClient, name: str) -> Practice:
    grant = await engine.open_session(OpenSession(rollout_id=name, policy="policy"))
    return Practice(Rollout(base_url=grant.base_url, secret=grant.secret, rollout_id=name))


async def finished(engine: EngineClient, one: Practice) -> Trajectory:
    return assemble(one.rollout, await engine.seal(one.rollout.rollout_id), status="completed")


def check(trajectory: Trajectory, result: Any) -> None:
    """Every call has its note and its tokens, and the answer the agent saw is the one that was sampled."""
    assert trajectory.calls
    for call in trajectory.calls:
        assert call.note is not None
        (completion,) = call.tokens.completions
        assert len(completion.token_ids) == len(completion.logprobs) == len(completion.weight_versions) > 0
    assert (call.tokens.completions[0].message.content or "") == result["messages"][-1].text
    asked = [request.id for call in trajectory.calls for request in call.tokens.completions[0].message.tool_requests]
    assert sorted(asked) == sorted(tool.tool_call_id or "" for tool in trajectory.tool_calls)


async def test_a_run_is_recorded_in_both_planes(engine: EngineClient) -> None:
    one = await practice(engine, "run")
    with one.bound():
        result = await AGENT.ainvoke(question("Harp"))

    check(await finished(engine, one), result)


async def test_a_sync_streamed_run_is_recorded_in_both_planes(engine: EngineClient) -> None:
    one = await practice(engine, "streamed")

    def run() -> Any:
        with one.bound():
            return list(AGENT.stream(question("Flute"), stream_mode=["messages", "values"]))

    events = await asyncio.to_thread(run)
    check(await finished(engine, one), next(state for mode, state in reversed(events) if mode == "values"))


async def test_32_concurrent_runs_do_not_mix(engine: EngineClient) -> None:
    async def run(number: int) -> tuple[int, Trajectory, Any]:
        one = await practice(engine, f"concurrent-{number}")
        with one.bound():
            result = await AGENT.ainvoke(question(f"Item{number}x"))
        return number, await finished(engine, one), result

    for number, trajectory, result in await asyncio.gather(*(run(number) for number in range(32))):
        check(trajectory, result)
        sent = {m.content for call in trajectory.calls for m in call.tokens.messages if m.role == "user"}
        assert sent == {f"Is the Item{number}x still in stock?"}


async def test_structured_output_is_recorded_as_constrained(engine: EngineClient) -> None:
    schema = {"title": "Verdict", "type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}

    model = ChatOpenAI(model="gpt-4o-mini", api_key=SecretStr("none"), max_completion_tokens=40)
    one = await practice(engine, "structured")
    # A model this small may fill its limit with the blanks that JSON allows; the SDK refuses such an answer.
    with one.bound(), contextlib.suppress(openai.LengthFinishReasonError):
        await model.with_structured_output({**schema, "additionalProperties": False}).ainvoke("yes or no?")

    (call,) = (await finished(engine, one)).calls
    assert call.note is not None
    assert call.tokens.completions[0].token_ids
    assert call.tokens.constrained
