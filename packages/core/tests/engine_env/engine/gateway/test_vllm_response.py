"""A stream is taken apart the same, however its bytes arrive."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from woodshed.engine.gateway.chat_request import parse_request
from woodshed.engine.gateway.vllm_response import StreamSplitter, refusal

REQUEST = parse_request(b'{"model": "gpt", "messages": [{"role": "user", "content": "x"}], "stream": true}')


def event(choice: dict[str, Any] | None, **extra: Any) -> bytes:
    chunk = {"id": "1", "model": "policy@3", "choices": [] if choice is None else [{"index": 0} | choice]} | extra
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def sampled(delta: dict[str, Any], token: int, **extra: Any) -> bytes:
    logprobs = {"content": [{"token": "t", "logprob": -token / 10, "bytes": None, "top_logprobs": []}]}
    return event({"delta": delta, "token_ids": [token], "logprobs": logprobs} | extra)


def call(index: int = 0, **function: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "id": "c1" if "name" in function else None, "function": function}]}


# The shape of vLLM 0.32's chunks: an opening with the prompt's tokens, one chunk per token (empty where the parser
# waits for more), a finish, the end.
STREAM = b"".join(
    [
        event({"delta": {"role": "assistant", "content": ""}, "logprobs": None}, prompt_token_ids=[5, 6]),
        sampled({"content": "é"}, 1),
        sampled({}, 2),
        sampled(call(name="look"), 3),
        sampled(call(arguments='{"a"'), 4),
        sampled(call(arguments=": 1}"), 5),
        sampled({}, 6, finish_reason="tool_calls", stop_reason=None),
        event(None, usage={"total_tokens": 8}),
        b"data: [DONE]\n\n",
    ]
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_where_the_bytes_are_cut_changes_nothing(cuts: list[int]) -> None:
    splitter, passed, at = StreamSplitter(REQUEST), b"", 0
    for cut in [*sorted(cuts), len(STREAM)]:
        passed += splitter.feed(STREAM[at:cut])
        at = cut
    whole = StreamSplitter(REQUEST)

    assert passed == whole.feed(STREAM)
    assert splitter.is_done
    assert splitter.prompt_ids == [5, 6]
    assert splitter.completions(3) == whole.completions(3)


def test_the_caller_sees_what_it_asked_for_and_the_record_has_every_token() -> None:
    splitter = StreamSplitter(REQUEST)
    chunks = [json.loads(part.removeprefix(b"data: ")) for part in splitter.feed(STREAM).split(b"\n\n") if part]
    (completion,) = splitter.completions(3)

    # The chunk that only carried a token is gone, and so is every trace of tokens.
    assert len(chunks) == 7
    assert {chunk["model"] for chunk in chunks} == {"gpt"}
    assert not any(
        "prompt_token_ids" in chunk or (chunk["choices"] and "token_ids" in chunk["choices"][0]) for chunk in chunks
    )
    assert all(choice["logprobs"] is None for chunk in chunks for choice in chunk["choices"])
    assert completion.token_ids == (1, 2, 3, 4, 5, 6)
    assert completion.logprobs == (-0.1, -0.2, -0.3, -0.4, -0.5, -0.6)
    assert completion.weight_versions == (3,) * 6
    assert completion.message.content == "é"
    assert [request.model_dump() for request in completion.message.tool_requests] == [
        {"id": "c1", "name": "look", "arguments": '{"a": 1}'}
    ]
    assert completion.finish_reason == "tool_calls"


def test_nothing_was_said_before_the_first_content() -> None:
    splitter = StreamSplitter(REQUEST)
    opening, rest = STREAM.split(b"\n\n", 1)
    splitter.feed(opening + b"\n\n")
    before = splitter.has_content
    splitter.feed(rest)

    assert (before, splitter.has_content) == (False, True)


def refused(message: str, param: str | None = "max_tokens") -> bytes:
    return json.dumps({"error": {"message": message, "type": "BadRequestError", "param": param, "code": 400}}).encode()


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused_as_too_long() -> None:
    raw = refused("max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)")

    error = json.loads(refusal(raw, REQUEST))["error"]
    assert "maximum context length" in error["message"]
    assert error | {"message": ""} == {"message": "", "type": "BadRequestError", "param": "input_tokens", "code": 400}


@pytest.mark.parametrize(
    ("raw", "asked"),
    [
        (refused("max_tokens must be at least 1, got 0."), 0),
        (refused("max_tokens must be at least 1, got -1."), -1),
        (refused("temperature must be non-negative.", "temperature"), 9),
        (refused("max_tokens must be at least 1, got 0.", None), 9),
        (b"not JSON", 9),
        (b'{"error": "text"}', 9),
        (b"[]", 9),
    ],
)
def test_any_other_refusal_is_passed_on_as_it_is(raw: bytes, asked: int) -> None:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "x"}], "max_tokens": asked}

    assert refusal(raw, parse_request(json.dumps(body).encode())) == raw
