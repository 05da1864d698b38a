"""Any JSON a client may send is read or refused by name: nothing else ever leaves the door."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from woodshed.engine.gateway.chat_request import BadRequest, parse_request, sampling_of, with_sampling
from woodshed.engine.gateway.messages import to_messages, to_tools

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
GOOD: dict[str, Any] = {
    "model": "policy",
    "messages": [
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "found"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {}}}],
    "tool_choice": "auto",
    "response_format": {"type": "text"},
    "chat_template_kwargs": {"enable_thinking": False},
    "stream_options": {"include_usage": True},
    "temperature": 1.0,
}
KEYS = [*GOOD, "stop", "stream", "n", "structured_outputs", "logit_bias", "store", "user", "functions", "verbosity"]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], other)
    return copy


def read(request: Any) -> None:
    """Read a request as the gateway does, up to what is sent on."""
    try:
        parsed = parse_request(json.dumps(request).encode())
    except BadRequest as refused:
        assert refused.message
        return
    sampled = with_sampling(parsed, {"temperature": 1.0})
    to_messages(sampled.body["messages"])
    to_tools(sampled.body.get("tools"))
    sampling_of(sampled.body)


@settings(max_examples=1500)
@given(st.sampled_from(places(GOOD)), JSON)
def test_any_value_in_any_place_is_read_or_refused(place: tuple[Any, ...], value: Any) -> None:
    read(put(GOOD, place, value))


@settings(max_examples=1000)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6))
def test_any_object_is_read_or_refused(request_body: dict[str, Any]) -> None:
    read({**GOOD, **request_body})
    read(request_body)


@pytest.mark.parametrize("depth", [120, 700, 100_000])
def test_a_deep_request_is_refused(depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    raw = json.dumps({**GOOD, "tools": 0}).replace('"tools": 0', f'"tools": [{deep}]')

    with pytest.raises(BadRequest, match="nested too deep"):
        parse_request(raw.encode())


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("chat_template_kwargs",), "a", "chat_template_kwargs"),
        (("tools", 0, "function", "description"), 3, "tools.look.description"),
        (("tools", 0, "function", "parameters"), [1], "tools.look.parameters"),
        (("messages", 2, "tool_call_id"), 5, "messages[2].tool_call_id"),
        (("messages", 1, "tool_calls", 0, "id"), 7, "messages[1].tool_calls.id"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_name(place: tuple[Any, ...], value: Any, named: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_request(json.dumps(put(GOOD, place, value)).encode())

    assert refused.value.param == named
