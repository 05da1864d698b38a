"""Answers, whole or in pieces, become ADK's own without loss, and are replayed in the model's own words."""

from __future__ import annotations

from typing import Any

import pytest
from google.adk.models.llm_response import LlmResponse
from google.genai import types

from woodshed.capture import Rollout
from woodshed_adk._convert_answer import Gathered, own_message, to_response
from woodshed_adk._replay import recall, remember


def model(*parts: types.Part | str) -> types.Content:
    return types.Content(role="model", parts=[types.Part(text=p) if isinstance(p, str) else p for p in parts])


def call(name: str, id: str, **args: Any) -> types.Part:
    return types.Part(function_call=types.FunctionCall(id=id, name=name, args=args))


def wire(message: dict[str, Any], finish_reason: str = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish_reason, **more}]}


def tool_call(arguments: str, id: str = "c1") -> dict[str, Any]:
    return {"tool_calls": [{"id": id, "type": "function", "function": {"name": "add", "arguments": arguments}}]}


@pytest.mark.parametrize("arguments", ['{"a": ', "[1, 2]", '"text"', "null", "{'a': 1}"])
def test_malformed_arguments_are_an_error_and_never_a_call(arguments: str) -> None:
    response = to_response(wire({"content": "Adding.", **tool_call(arguments)}, "tool_calls"))

    assert (response.error_code, response.content) == ("MALFORMED_FUNCTION_CALL", None)
    assert response.error_message is not None
    assert response.error_message.startswith("the arguments of tool call 'add' are ")


def test_arguments_that_were_cut_off_are_the_limits_error() -> None:
    response = to_response(wire(tool_call('{"a": 1, '), "length"))

    assert (response.error_code, response.finish_reason) == ("MAX_TOKENS", types.FinishReason.MAX_TOKENS)


@pytest.mark.parametrize(
    ("why", "code"), [("length", "MAX_TOKENS"), ("content_filter", "SAFETY"), ("odd", "FINISH_REASON_UNSPECIFIED")]
)
def test_an_empty_answer_that_did_not_just_stop_is_an_error(why: str, code: str) -> None:
    assert to_response(wire({"content": None}, why)).error_code == code
    assert to_response(wire({"content": "some"}, why)).error_code is None


def test_an_answer_without_a_choice_is_an_error() -> None:
    assert to_response({"choices": []}).error_code == "OTHER"


def test_reasoning_is_a_thought_and_is_replayed() -> None:
    message = {"content": "Three.", "reasoning_content": "1 + 2"}
    response = to_response(wire(message))

    assert response.content is not None and response.content.parts is not None
    assert [(part.text, bool(part.thought)) for part in response.content.parts] == [("1 + 2", True), ("Three.", False)]
    assert own_message(message) == {"role": "assistant", "content": "Three.", "reasoning": "1 + 2"}


def test_logprobs_are_adks_where_they_were_asked_for() -> None:
    tokens = [
        {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]},
        {"token": "b", "logprob": -1.5, "top_logprobs": []},
    ]
    response = to_response(wire({"content": "ab"}, logprobs={"content": tokens}))

    assert response.avg_logprobs == -1.0
    assert response.logprobs_result is not None and response.logprobs_result.chosen_candidates is not None
    assert [c.token for c in response.logprobs_result.chosen_candidates] == ["a", "b"]
    assert to_response(wire({"content": "ab"})).logprobs_result is None


def test_a_stream_adds_up_to_the_whole_answer() -> None:
    def chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, **more}]}

    def piece(**function: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "id": "c1" if "name" in function else None, "function": function}]}

    gathered, shown = Gathered(), list[LlmResponse]()
    for received in (
        chunk({"role": "assistant", "content": "", "reasoning": "h"}),
        chunk({"reasoning": "m"}),
        chunk({"content": "Let "}),
        chunk({"content": "me."}),
        chunk(piece(name="add", arguments="")),
        chunk(piece(arguments='{"a":')),
        chunk(piece(arguments=" 1}")),
        chunk({}, finish_reason="tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
    ):
        shown += gathered.add(received)
    whole = to_response(gathered.body(), streamed=True)

    once = to_response({**wire({"content": "Let me.", "reasoning": "hm", **tool_call('{"a": 1}')}, "tool_calls"),
                        "usage": gathered.usage}, streamed=True)  # fmt: skip
    assert whole == once
    assert [response.partial for response in shown] == [True] * 7
    assert own_message(gathered.body()["choices"][0]["message"])["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    ]


def test_a_message_is_replayed_only_while_it_is_unchanged() -> None:
    rollout = Rollout(base_url="http://127.0.0.1:1/v1", secret="s")
    said = {"role": "assistant", **tool_call('{ "a":1}')}
    content = model("Adding.", call("add", "c1", a=1))
    remember(rollout, content, said, [])

    assert recall(rollout, model("Adding.", call("add", "c1", a=1)), []) is said
    assert recall(rollout, model("Adding!", call("add", "c1", a=1)), []) is None
    assert recall(rollout, model("Adding.", call("add", "c1", a=2)), []) is None
    assert recall(Rollout(base_url="http://127.0.0.1:1/v1", secret="t"), content, []) is None


def test_of_messages_that_look_the_same_the_one_of_that_turn_is_replayed() -> None:
    rollout = Rollout(base_url="http://127.0.0.1:1/v1", secret="s")
    content, user = model(call("add", "functions.add:0", a=1)), {"role": "user", "content": "hi"}
    first, second, third = (
        {"role": "assistant", **tool_call(text, "functions.add:0")} for text in ('{"a": 1}', '{ "a":1}', '{"a":1 }')
    )
    told = {"role": "tool", "tool_call_id": "functions.add:0", "content": "1"}
    remember(rollout, content, first, [user])
    remember(rollout, content, second, [{"role": "system", "content": "then"}, user, first, told])
    remember(rollout, content, third, [{"role": "user", "content": "another agent's"}])

    assert recall(rollout, content, [user]) is first
    assert recall(rollout, content, [{"role": "system", "content": "now"}, user, first, told]) is second
    assert recall(rollout, content, [{"role": "user", "content": "another agent's"}]) is third
    edited = {"role": "user", "content": "a summary"}
    assert recall(rollout, content, [edited]) is first
    assert recall(rollout, content, [edited, first, told]) is second
