"""Every key of a request is served, without effect, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from woodshed.engine.gateway.chat_request import (
    BadRequest,
    check_sampling,
    parse_request,
    sampling_of,
    with_sampling,
)
from woodshed.engine.gateway.messages import to_messages, to_tools
from woodshed.types.chat_settings import REQUEST_SETTINGS

USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def request(**extra: Any) -> bytes:
    return json.dumps({"model": "gpt", "messages": [USER]} | extra).encode()


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"best_of": 2}, "best_of"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"guided_json": {}}, "guided_json"),
        ({"allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"temperture": 0.5}, "temperture"),
        ({"logprob_token_ids": [1]}, "logprob_token_ids"),
        ({"unheard_of": 0}, "unheard_of"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": True}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"model": None}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [USER, {"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[1].content"),
        ({"messages": [USER | {"weight": 1}]}, "messages[0].weight"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages[0].function_call"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages[0].tool_calls"),
        ({"tools": [{"type": "custom"}]}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
    ],
)
def test_what_cannot_be_served_is_named(extra: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_request(request(**extra))

    assert refused.value.param == param
    assert param.split(".")[-1].split("[")[0] in refused.value.message


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"text"', b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="the body is"):
        parse_request(raw)


def test_nothing_of_effect_is_changed_on_the_way() -> None:
    asked = {
        "temperature": 0.3, "top_p": 0.9, "max_completion_tokens": 5, "n": 2, "seed": 1, "stop": ["x"], "stream": True,
        "stream_options": {"include_usage": True}, "tools": [TOOL], "tool_choice": "required",
        "parallel_tool_calls": False, "response_format": {"type": "text"}, "top_k": 5, "logprobs": True,
    }  # fmt: skip
    parsed = parse_request(request(**asked))

    assert parsed.body == asked | {"messages": [USER]}
    assert (parsed.model, parsed.stream, parsed.wants_logprobs) == ("gpt", True, True)


def test_what_has_no_effect_is_dropped() -> None:
    idle = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "audio": None,
        "logit_bias": {},
    }
    parsed = parse_request(request(**idle))

    assert parsed.body == {"messages": [USER]}
    assert set(parsed.dropped) == {"user", "metadata"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reasoning_effort", "high"), ("store", True), ("logit_bias", {"1": 5}), ("service_tier", "flex"),
        ("prompt_cache_key", "k"), ("prompt_cache_retention", "24h"), ("safety_identifier", "s"),
        ("metadata", {"a": "b"}), ("user", "u"), ("verbosity", "low"), ("provider", {"order": ["a"]}),
        ("models", ["a"]), ("route", "fallback"), ("transforms", []), ("reasoning", {"effort": "low"}),
        ("thinking", {"type": "enabled"}), ("prediction", {"type": "content"}), ("safe_prompt", True),
        ("enable_thinking", False), ("priority", 1), ("safety_settings", []),
    ],
)  # fmt: skip
def test_a_setting_of_the_provider_is_dropped_with_its_reason(name: str, value: Any) -> None:
    parsed = parse_request(request(**{name: value}))

    assert parsed.body == {"messages": [USER]}
    assert list(parsed.dropped) == [name] and parsed.dropped[name] == REQUEST_SETTINGS[name].why


def test_another_providers_word_is_served_under_vllms() -> None:
    words = {"max_output_tokens": 9, "stop_sequences": ["x"], "random_seed": 3}

    assert parse_request(request(**words)).body == {"messages": [USER], "max_tokens": 9, "stop": ["x"], "seed": 3}
    assert parse_request(request(max_tokens=4, max_output_tokens=9)).body["max_tokens"] == 4


def test_a_developer_message_is_a_system_message() -> None:
    parsed = parse_request(request(messages=[{"role": "developer", "content": "be kind"}]))

    assert parsed.body["messages"] == [{"role": "system", "content": "be kind"}]


def test_messages_are_recorded_as_text_and_tool_requests() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    parsed = parse_request(
        request(
            messages=[
                {"role": "user", "content": parts},
                {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
                {"role": "tool", "content": "seen", "tool_call_id": "1"},
            ]
        )
    )
    user, assistant, tool = to_messages(parsed.body["messages"])

    assert user.content == "a\nb"
    assert [request.model_dump() for request in assistant.tool_requests] == [
        {"id": "1", "name": "look", "arguments": "{}"}
    ]
    assert (tool.role, tool.content, tool.tool_call_id) == ("tool", "seen", "1")


def test_tools_are_recorded_with_their_parameters() -> None:
    (spec,) = to_tools([TOOL])

    assert spec.model_dump() == {"name": "look", "description": "", "parameters": {"type": "object"}}


def test_overrides_win_and_replace_both_names_of_the_length() -> None:
    parsed = with_sampling(
        parse_request(request(temperature=0, max_completion_tokens=9)), {"temperature": 1.0, "max_tokens": 4}
    )

    assert sampling_of(parsed.body) == {"temperature": 1.0, "top_p": 1.0, "max_tokens": 4}
    assert "max_completion_tokens" not in parsed.body


def test_a_seed_is_the_callers_own_where_nothing_is_overridden_and_dropped_where_anything_is() -> None:
    asked = parse_request(request(seed=7))

    assert with_sampling(asked, {}).body["seed"] == 7
    assert "seed" not in with_sampling(asked, {"temperature": 1.0}).body
    assert with_sampling(asked, {"temperature": 1.0, "seed": 8}).body["seed"] == 8


def test_sampling_defaults_are_written_out() -> None:
    assert sampling_of(parse_request(request()).body) == {"temperature": 1.0, "top_p": 1.0}


def test_unknown_overrides_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"\['warmth'\] are not known"):
        check_sampling({"warmth": 1})


@pytest.mark.parametrize(
    ("extra", "constrained"),
    [
        ({}, False),
        ({"tools": [TOOL]}, False),
        ({"tools": [TOOL], "tool_choice": "required"}, True),
        ({"tools": [TOOL | {"function": TOOL["function"] | {"strict": True}}]}, True),
        ({"response_format": {"type": "json_object"}}, True),
        ({"presence_penalty": 0}, False),
        ({"presence_penalty": 0.1}, True),
        ({"top_p": 0.5, "top_k": 4}, False),
    ],
)
def test_what_bends_the_distribution_is_said(extra: dict[str, Any], constrained: bool) -> None:
    assert parse_request(request(**extra)).constrained is constrained
