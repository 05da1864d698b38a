"""The scripted engine keeps the promises a woodshed engine keeps towards an agent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from woodshed.errors import ConfigError
from woodshed.testing import ScriptedEngine, call_tool, fail, hang, in_order, say, scripted_rollout
from woodshed.types import Message, ToolRequest

OpenClient = Callable[..., openai.OpenAI]
ASK: Any = [{"role": "user", "content": "hi"}]
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    with ScriptedEngine(lambda request: say("hello there")) as running:
        yield running


def test_a_plain_client_gets_a_plain_answer(engine: ScriptedEngine, client: OpenClient) -> None:
    answer = client(engine.base_url).chat.completions.create(model="gpt-x", messages=ASK)

    assert (answer.choices[0].message.content, answer.choices[0].finish_reason, answer.model) == (
        "hello there",
        "stop",
        "gpt-x",
    )
    assert answer.model_extra == {}
    assert [(seen.rollout_id, seen.body["messages"]) for seen in engine.requests] == [(None, ASK)]


def test_a_stream_gives_the_same_text_and_tool_calls_in_pieces(engine: ScriptedEngine, client: OpenClient) -> None:
    engine.script = in_order(say("hello there"), call_tool("add", id="c1", a=1, b=2))
    chat = client(engine.base_url).chat.completions
    text = [c.choices[0].delta.content for c in chat.create(model="m", messages=ASK, stream=True)]
    deltas = [
        call
        for chunk in chat.create(model="m", messages=ASK, stream=True)
        for call in chunk.choices[0].delta.tool_calls or ()
    ]

    assert "".join(piece or "" for piece in text) == "hello there"
    assert len(text) > 3
    assert [d.id for d in deltas if d.id] == ["c1"]
    assert "".join(d.function.arguments or "" for d in deltas if d.function) == '{"a": 1, "b": 2}'


def test_usage_is_streamed_only_if_asked_for(engine: ScriptedEngine, client: OpenClient) -> None:
    chat = client(engine.base_url).chat.completions
    silent = list(chat.create(model="m", messages=ASK, stream=True))
    told = list(chat.create(model="m", messages=ASK, stream=True, stream_options={"include_usage": True}))

    assert [chunk.usage for chunk in silent if chunk.usage] == []
    assert told[-1].usage is not None
    assert told[-1].usage.completion_tokens == len("hello there") + 1


def test_calls_with_a_secret_are_recorded_for_that_rollout(engine: ScriptedEngine, client: OpenClient) -> None:
    engine.script = in_order(call_tool("add", id="c1", a=1), say("done"))
    asked: Any = {"role": "assistant", "content": None}
    asked["tool_calls"] = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}]
    with scripted_rollout(engine) as rollout:
        chat = client(engine.base_url, rollout.secret).chat.completions
        chat.create(model="m", messages=ASK, tools=[ADD], temperature=0.5)
        chat.create(
            model="m", messages=[*ASK, asked, {"role": "tool", "tool_call_id": "c1", "content": "1"}], tools=[ADD]
        )

    first, second = (call.tokens for call in engine.trajectory(rollout).calls)
    assert first.completions[0].message == Message(
        role="assistant", tool_requests=(ToolRequest(id="c1", name="add", arguments='{"a": 1}'),)
    )
    assert (first.sampling, [tool.name for tool in first.tools]) == ({"temperature": 0.5}, ["add"])
    conversation = first.prompt_ids + first.completions[0].token_ids
    assert second.prompt_ids[: len(conversation)] == conversation
    assert len(first.completions[0].logprobs) == len(first.completions[0].token_ids)


def test_a_sealed_session_answers_409_and_records_nothing_more(engine: ScriptedEngine, client: OpenClient) -> None:
    with scripted_rollout(engine) as rollout:
        client(engine.base_url, rollout.secret).chat.completions.create(model="m", messages=ASK)
    with pytest.raises(openai.ConflictError, match="sealed"):
        client(engine.base_url, rollout.secret).chat.completions.create(model="m", messages=ASK)

    sealed = engine.seal(rollout.rollout_id)
    assert (len(sealed.calls), sealed.late_calls) == (1, 1)


def test_a_clients_retry_of_a_call_is_one_record(engine: ScriptedEngine, client: OpenClient) -> None:
    engine.script = in_order(fail(429, retry_after_s=0.01), fail(500), say("at last"))
    with scripted_rollout(engine) as rollout:
        chat = client(engine.base_url, rollout.secret, max_retries=2).chat.completions
        chat.create(model="m", messages=ASK, extra_headers={"x-woodshed-call-id": "one"})

    (call,) = engine.trajectory(rollout).calls
    assert (call.tokens.call_id, call.tokens.retries, call.tokens.error) == ("one", 2, None)
    assert call.tokens.completions[0].message.content == "at last"


def test_a_refused_call_is_recorded_with_its_error(engine: ScriptedEngine, client: OpenClient) -> None:
    engine.script = in_order(fail(500))
    with scripted_rollout(engine) as rollout, pytest.raises(openai.InternalServerError):
        client(engine.base_url, rollout.secret, max_retries=0).chat.completions.create(model="m", messages=ASK)

    (call,) = engine.trajectory(rollout).calls
    assert (call.tokens.error and call.tokens.error.message, call.tokens.completions) == ("HTTP 500", ())


def test_a_hanging_engine_runs_into_the_clients_timeout_and_still_closes(client: OpenClient) -> None:
    with ScriptedEngine(lambda request: hang()) as engine, pytest.raises(openai.APITimeoutError):
        client(engine.base_url, timeout=0.2, max_retries=0).chat.completions.create(model="m", messages=ASK)

    assert not [thread for thread in threading.enumerate() if thread.name == "scripted-engine"]


def test_several_choices_are_several_completions(engine: ScriptedEngine, client: OpenClient) -> None:
    engine.script = lambda request: [say(str(i)) for i in range(request["n"])]
    with scripted_rollout(engine) as rollout:
        answer = client(engine.base_url, rollout.secret).chat.completions.create(model="m", messages=ASK, n=2)

    assert [choice.message.content for choice in answer.choices] == ["0", "1"]
    assert [c.message.content for c in engine.trajectory(rollout).calls[0].tokens.completions] == ["0", "1"]


def test_a_script_that_ran_out_says_what_it_was_asked(engine: ScriptedEngine, client: OpenClient) -> None:
    engine.script = in_order()

    with pytest.raises(openai.BadRequestError, match=r"had 0 replies.*'hi'"):
        client(engine.base_url).chat.completions.create(model="m", messages=ASK)


def test_an_engine_that_is_not_running_has_no_address() -> None:
    with pytest.raises(ConfigError, match="with ScriptedEngine"):
        _ = ScriptedEngine(lambda request: say("x")).base_url
