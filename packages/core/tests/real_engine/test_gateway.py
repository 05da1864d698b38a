"""What an OpenAI client gets from the gateway, and what is recorded of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from shop import SYSTEM, TOOLS, RunningEngine, question

from woodshed.testing.waiting import eventually
from woodshed.types import OpenSession

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}


async def test_settings_of_a_provider_are_dropped_with_one_line_and_a_typo_is_refused(engine: RunningEngine) -> None:
    own = {"provider": {"order": ["a"]}, "thinking": {"type": "enabled"}, "max_output_tokens": 4}
    asked = question(store=True, reasoning_effort="low", logit_bias={"1": 5}, user="me", extra_body=own)
    async with engine.session() as session:
        for _ in range(2):
            await session.agent.chat.completions.create(**asked)
        with pytest.raises(openai.BadRequestError, match="'temperture' is not served by this engine"):
            await session.agent.chat.completions.create(**question(extra_body={"temperture": 0.5}))
        sealed = await session.seal()

    assert [(call.error, call.constrained) for call in sealed.calls] == [(None, False)] * 2
    logged = "".join(file.read_text() for file in engine.home.rglob("*.log"))
    names = ("store", "reasoning_effort", "logit_bias", "user", "provider", "thinking")
    assert [logged.count(f"{name!r} in requests of") for name in names] == [1] * len(names)


async def test_an_answer_is_plain_openai_and_its_tokens_are_recorded(engine: RunningEngine) -> None:
    async with engine.session() as session:
        raw = await session.agent.chat.completions.with_raw_response.create(
            **question(tools=TOOLS), extra_headers={"x-woodshed-call-id": "call-1"}
        )
        sealed = await session.seal()

    body = json.loads(raw.text)
    assert body["model"] == "gpt-4o-mini"
    assert not {"prompt_token_ids", "prompt_logprobs", "kv_transfer_params"} & set(body)
    assert not {"token_ids", "stop_reason", "routed_experts"} & set(body["choices"][0])
    assert body["choices"][0]["logprobs"] is None
    (call,) = sealed.calls
    assert (call.call_id, call.retries, call.error, call.constrained) == ("call-1", 0, None, False)
    assert raw.headers["x-woodshed-call-id"] == "call-1"
    assert [message.role for message in call.messages] == ["system", "user"]
    assert [spec.name for spec in call.tools] == ["get_price", "get_stock", "get_delivery"]
    assert len(call.prompt_ids) == body["usage"]["prompt_tokens"]
    (completion,) = call.completions
    count = body["usage"]["completion_tokens"]
    assert len(completion.token_ids) == len(completion.logprobs) == len(completion.weight_versions) == count
    assert all(logprob <= 0 for logprob in completion.logprobs)
    assert completion.finish_reason == body["choices"][0]["finish_reason"]


async def test_tool_calls_are_parsed_and_recorded(engine: RunningEngine) -> None:
    async with engine.session(sampling={"temperature": 0}) as session:
        answer = await session.ask(tools=TOOLS)
        sealed = await session.seal()

    (asked,) = answer.choices[0].message.tool_calls
    (recorded,) = sealed.calls[0].completions[0].message.tool_requests
    assert answer.choices[0].finish_reason == "tool_calls"
    assert recorded.model_dump() == {"id": asked.id, "name": asked.function.name, "arguments": asked.function.arguments}
    assert asked.function.name in {"get_price", "get_stock", "get_delivery"}


async def test_a_stream_says_and_records_what_a_whole_answer_does(engine: RunningEngine) -> None:
    async with engine.session(sampling={"temperature": 0}) as session:
        whole = (await session.ask(tools=TOOLS)).choices[0].message.tool_calls[0].function
        chunks = [chunk async for chunk in await session.ask(tools=TOOLS, stream=True)]
        sealed = await session.seal()

    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
    assert "".join(part.function.name or "" for part in parts) == whole.name
    assert json.loads("".join(part.function.arguments or "" for part in parts)) == json.loads(whole.arguments)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert {chunk.model for chunk in chunks} == {"gpt-4o-mini"}
    assert all(chunk.usage is None and chunk.choices[0].logprobs is None for chunk in chunks)
    once, streamed = sealed.calls
    assert streamed.prompt_ids == once.prompt_ids
    assert streamed.completions[0].token_ids == once.completions[0].token_ids
    assert streamed.completions[0].logprobs == pytest.approx(once.completions[0].logprobs, abs=1e-4)
    assert streamed.completions[0].message.tool_requests[0].name == whole.name


async def test_a_streams_usage_comes_only_when_asked_for(engine: RunningEngine) -> None:
    async with engine.session() as session:
        options = {"include_usage": True}
        chunks = [chunk async for chunk in await session.ask(stream=True, stream_options=options)]

    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0


async def test_logprobs_that_are_asked_for_are_given(engine: RunningEngine) -> None:
    async with engine.session() as session:
        answer = await session.ask(logprobs=True, top_logprobs=2, max_tokens=4)
        sealed = await session.seal()

    given = answer.choices[0].logprobs.content
    assert [token.logprob for token in given] == pytest.approx(list(sealed.calls[0].completions[0].logprobs))
    assert all(len(token.top_logprobs) == 2 for token in given)
    said = "".join(token.token for token in given if not token.token.startswith("<|"))
    assert said == answer.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_of_one_call_are_recorded_apart(engine: RunningEngine, stream: bool) -> None:
    async with engine.session() as session:
        answer = await session.ask(n=3, stream=stream, seed=7)
        if stream:
            assert {choice.index async for chunk in answer for choice in chunk.choices} == {0, 1, 2}
        sealed = await session.seal()

    (call,) = sealed.calls
    assert [completion.index for completion in call.completions] == [0, 1, 2]
    assert all(completion.token_ids for completion in call.completions)
    assert (call.sampling["n"], call.sampling["seed"]) == (3, 7)


async def test_a_seed_repeats_an_answer(engine: RunningEngine) -> None:
    async with engine.session() as session:
        for _ in range(2):
            await session.ask(seed=11)
        first, second = (await session.seal()).calls

    assert first.completions[0].token_ids == second.completions[0].token_ids


async def test_stop_ends_an_answer(engine: RunningEngine) -> None:
    async with engine.session() as session:
        answer = await session.ask(tools=TOOLS, tool_choice="none", stop=["arguments"], temperature=0)

    assert "arguments" not in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("extra", "constrained"),
    [
        ({}, False),
        ({"tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False}, False),
        ({"tools": TOOLS, "tool_choice": "none"}, False),
        ({"tools": TOOLS, "tool_choice": "required"}, True),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "get_stock"}}}, True),
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}, True),
        ({"frequency_penalty": 0.5}, True),
    ],
)
async def test_constrained_decoding_is_said_on_the_call(
    engine: RunningEngine, extra: dict[str, Any], constrained: bool
) -> None:
    async with engine.session() as session:
        await session.ask(**extra)
        sealed = await session.seal()

    assert sealed.calls[0].error is None
    assert sealed.calls[0].constrained is constrained


async def test_a_json_schema_is_kept(engine: RunningEngine) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["yes", "no"]}}}
    async with engine.untracked() as judge:
        answer = await judge.chat.completions.create(**question(model="judge", response_format=shape, temperature=0))

    assert json.loads(answer.choices[0].message.content or "") in {"yes", "no"}


async def test_a_named_tool_is_called(engine: RunningEngine) -> None:
    async with engine.session(sampling={"temperature": 0}) as session:
        choice = {"type": "function", "function": {"name": "get_price"}}
        answer = await session.ask(tools=TOOLS, tool_choice=choice, max_tokens=64)

    assert answer.choices[0].message.tool_calls[0].function.name == "get_price"


async def test_a_sessions_sampling_wins_over_the_clients(engine: RunningEngine) -> None:
    async with engine.session(sampling={"temperature": 0.5, "max_tokens": 3}) as session:
        await session.ask(temperature=0.0, max_tokens=30)
        (call,) = (await session.seal()).calls

    assert (call.sampling["temperature"], call.sampling["max_tokens"]) == (0.5, 3)
    assert len(call.completions[0].token_ids) <= 3


async def test_a_repeated_call_id_is_one_call_with_retries(engine: RunningEngine) -> None:
    async with engine.session() as session:
        for _ in range(2):
            await session.ask(extra_headers={"x-woodshed-call-id": "same"})
        await session.ask()
        sealed = await session.seal()

    assert sorted((call.call_id == "same", call.retries) for call in sealed.calls) == [(False, 0), (True, 1)]


async def test_an_sdk_retry_without_a_call_id_is_one_call(engine: RunningEngine) -> None:
    async with engine.session() as session, httpx.AsyncClient() as http:
        url, headers = f"{session.grant.base_url}/chat/completions", {"authorization": f"Bearer {session.grant.secret}"}
        asked = question(ignore_eos=True, max_tokens=200)
        with pytest.raises(httpx.ReadTimeout):
            await http.post(url, json=asked, headers=headers, timeout=0.05)
        await eventually(session.recorded, "the call that was left is recorded")
        again = headers | {"x-stainless-retry-count": "1"}
        assert (await http.post(url, json=asked, headers=again, timeout=60.0)).status_code == 200
        sealed = await session.seal()

    assert [(call.retries, call.error) for call in sealed.calls] == [(1, None)]


async def test_two_calls_with_the_same_prompt_are_two_calls(engine: RunningEngine) -> None:
    async with engine.session() as session:
        await asyncio.gather(*(session.ask() for _ in range(4)))
        sealed = await session.seal()

    assert len({call.call_id for call in sealed.calls}) == 4


async def test_concurrent_sessions_do_not_mix(engine: RunningEngine) -> None:
    async def rollout(number: int) -> bool:
        async with engine.session() as session:
            text = f"question {number}"
            await asyncio.gather(*(session.ask(text, max_tokens=4) for _ in range(2)))
            calls = (await session.seal()).calls
            return len(calls) == 2 and all(call.messages[1].content == text for call in calls)

    assert all(await asyncio.gather(*(rollout(number) for number in range(32))))


async def test_a_call_after_the_seal_is_refused_counted_and_not_recorded(engine: RunningEngine) -> None:
    async with engine.session() as session:
        await session.ask()
        before = await session.seal()
        with pytest.raises(openai.ConflictError, match="sealed"):
            await session.ask()
        after = await session.seal()

    assert (before.late_calls, after.late_calls) == (0, 1)
    assert before.calls == after.calls


async def test_sealing_cancels_a_call_in_flight_and_records_why(engine: RunningEngine) -> None:
    async with engine.session() as session:
        asking = asyncio.create_task(session.ask(max_tokens=900, extra_body={"ignore_eos": True}))
        await engine.answers_a_later_call()
        sealed = await session.seal()
        with pytest.raises(openai.ConflictError):
            await asking

    (call,) = sealed.calls
    assert call.error is not None
    assert "sealed" in call.error.message


async def test_a_client_that_leaves_frees_vllm_and_leaves_a_record(engine: RunningEngine) -> None:
    async with engine.session() as session, httpx.AsyncClient() as http:
        url, headers = f"{session.grant.base_url}/chat/completions", {"authorization": f"Bearer {session.grant.secret}"}
        with pytest.raises(httpx.ReadTimeout):
            await http.post(url, json=question(max_tokens=900, ignore_eos=True), headers=headers, timeout=1)
        await eventually(session.recorded, "the call that was left is recorded")
        (call,) = (await session.seal()).calls

    assert call.error is not None
    assert (call.error.kind, call.error.message) == ("CallCancelled", "the client closed the connection")


async def test_a_stream_that_is_left_keeps_the_tokens_it_had(engine: RunningEngine) -> None:
    for _ in range(20):
        async with engine.session() as session:
            stream = await session.ask(stream=True, max_tokens=300, extra_body={"ignore_eos": True})
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            await stream.close()
            await eventually(session.recorded, "the stream that was left is recorded")
            (call,) = (await session.seal()).calls
        if call.error is not None:  # else all tokens were there before a busy machine let this process read the first
            break

    assert call.error is not None
    assert 0 < len(call.completions[0].token_ids) < 300


async def test_paused_is_429_with_retry_after_and_an_sdk_waits_it_out(engine: RunningEngine) -> None:
    async with engine.session() as session:
        await engine.client.pause()
        with pytest.raises(openai.RateLimitError) as refused:
            await session.ask()
        patient, answers = session.agent.with_options(max_retries=5), list[int]()
        patient._client.event_hooks["response"].append(_noting(answers))
        waiting = asyncio.create_task(patient.chat.completions.create(**question()))
        await eventually(lambda: answers, "the patient client was refused, too")
        await engine.client.resume()

        assert (await waiting).choices
        assert (answers[0], answers[-1]) == (429, 200)
        assert float(refused.value.response.headers["retry-after"]) > 0


async def test_an_unknown_secret_is_401(engine: RunningEngine) -> None:
    async with openai.AsyncOpenAI(
        base_url=engine.client.openai_base_url, api_key="woodshed-session-x", max_retries=0
    ) as agent:
        with pytest.raises(openai.AuthenticationError, match="session is not known"):
            await agent.chat.completions.create(**question())


async def test_untracked_calls_reach_a_served_model_by_name(engine: RunningEngine) -> None:
    async with engine.untracked() as judge:
        answer = await judge.chat.completions.create(**question(model="judge"))
        chunks = [chunk async for chunk in await judge.chat.completions.create(**question(model="judge", stream=True))]
        listed = [model.id async for model in judge.models.list()]
        with pytest.raises(openai.NotFoundError, match=r"'nobody'.*\['judge', 'policy'\]"):
            await judge.chat.completions.create(**question(model="nobody"))

    assert answer.model == "judge"
    assert chunks[-1].choices[0].finish_reason
    assert listed == ["policy", "judge"]


async def test_what_vllm_refuses_is_passed_on_and_recorded(engine: RunningEngine) -> None:
    async with engine.session() as session:
        with pytest.raises(openai.BadRequestError, match="max_model_len"):
            await session.ask(max_tokens=100_000)
        (call,) = (await session.seal()).calls

    assert call.error is not None
    assert call.error.kind == "BadRequestError"


async def test_a_prompt_that_fills_the_context_exactly_is_refused_as_one_that_is_longer(engine: RunningEngine) -> None:
    longest = (await engine.client.serving("policy")).max_model_len
    async with engine.session() as session:

        async def asked(words: int) -> int:
            """Ask with so many more words, each of them a token, and return how long the prompt was."""
            text = "Is the Harp still in stock?" + " in" * words
            answer = await session.agent.chat.completions.create(**question(text))
            return int(answer.usage.prompt_tokens)

        room = longest - await asked(0)
        assert await asked(room - 1) == longest - 1
        for words in (room, room + 1):
            with pytest.raises(openai.BadRequestError, match="maximum context length"):
                await asked(words)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"extra_body": {"no_such_key": 1}}, "no_such_key"),
        (
            {"messages": [SYSTEM, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "image_url",
        ),
        ({"messages": []}, "messages"),
    ],
)
async def test_what_cannot_be_served_is_a_400_that_names_it(
    engine: RunningEngine, extra: dict[str, Any], named: str
) -> None:
    async with engine.session() as session:
        with pytest.raises(openai.BadRequestError, match=named):
            await session.ask(**extra)


async def test_a_session_opened_again_forgets_the_first(engine: RunningEngine) -> None:
    async with engine.session() as session:
        await session.ask()
        await engine.client.open_session(OpenSession(rollout_id=session.grant.rollout_id, policy="policy"))
        with pytest.raises(openai.AuthenticationError):
            await session.ask()

        assert (await session.seal()).calls == ()


def _noting(answers: list[int]) -> Any:
    async def note(response: httpx.Response) -> None:
        answers.append(response.status_code)

    return note
