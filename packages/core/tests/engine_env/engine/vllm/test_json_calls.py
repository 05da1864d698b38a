"""The parser `json` reads calls that are written as plain JSON, whatever stands around them, whole or in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_families import tokenizer_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, at vLLM's import

ONE = '{"name": "price", "arguments": {"of": "a harp"}}'
TWO = '{"name": "stock", "arguments": {"of": ["a {lute}", 2]}}'
A = ("price", {"of": "a harp"})
B = ("stock", {"of": ["a {lute}", 2]})
Call = tuple[str, dict[str, Any]]

# What an answer is → what is said before its calls, and the calls.
CALLS: dict[str, tuple[str, str, list[Call]]] = {
    "bare": (ONE, "", [A]),
    "indented": (json.dumps(json.loads(ONE), indent=4), "", [A]),
    "parameters": (ONE.replace("arguments", "parameters"), "", [A]),
    "arguments first": ('{"arguments": {"of": "a harp"}, "name": "price"}', "", [A]),
    "with its type": ('{"type": "function", ' + ONE[1:], "", [A]),
    "as OpenAI writes it": ('{"type": "function", "function": ' + ONE + "}", "", [A]),
    "no arguments": ('{"name": "list", "arguments": {}}', "", [("list", {})]),
    "another tongue": ('{"name": "price", "arguments": {"of": "Flügel “Ö” \\u00e9"}}', "",
                       [("price", {"of": "Flügel “Ö” é"})]),
    "text before": (f"I look it up.\n{ONE}", "I look it up.\n", [A]),
    "text after": (f"{ONE}\nNow I wait.", "", [A]),
    "fenced": (f"```json\n{ONE}\n```", "", [A]),
    "fenced, with text": (f"Sure, a < b:\n```\n{ONE}\n```\nDone.", "Sure, a < b:\n", [A]),
    "in tags": (f"<tool_call>\n{ONE}\n</tool_call>", "", [A]),
    "in other tags": (f"<tools>{ONE}</tools>", "", [A]),
    "after a token": (f"<|python_tag|>{ONE}", "", [A]),
    "a list": (f"[{ONE}, {TWO}]", "", [A, B]),
    "a fenced list": (f"```json\n[\n  {ONE},\n  {TWO}\n]\n```", "", [A, B]),
    "one per line": (f"{ONE}\n{TWO}\n", "", [A, B]),
    "after another block": (f"```\n[]\n```\n{ONE}", "```\n[]\n```\n", [A]),
    "two blocks": (f"```\n{ONE}\n```\n```\n{TWO}\n```", "", [A, B]),
    "with semicolons": (f"{ONE}; {TWO}", "", [A, B]),
    "after other JSON": ('{"type": "note"} ' + ONE, '{"type": "note"} ', [A]),
    "after what is broken": ('{"name": price} ' + ONE, '{"name": price} ', [A]),
}  # fmt: skip

PLAIN = [
    "The harp costs 7.",
    "",
    '{"name": "Ann", "age": 7}',
    '{"name": "Ann", "arguments": "she has many"}',
    '{"name": 7, "arguments": {}}',
    '{"item": "fork", "quantity": 2}',
    '[{"name": "Ann"}, {"name": "Bo"}]',
    "[1, 2] {} {a} <b> `c` ```python\nprint({'name': 1})\n```",
    '{"name": price, "arguments": {}}',
    "{" * 500 + ".",
    "```json\n{}\n``` and ```\n[]\n```",
]


def parser() -> Any:
    from vllm.tool_parsers import ToolParserManager

    ToolParserManager.import_tool_parser("woodshed.engine.vllm.json_calls")
    return ToolParserManager.get_tool_parser("json")(tokenizer_of("qwen2.5"))


def whole(text: str) -> tuple[str | None, list[Call]]:
    found = parser().extract_tool_calls(text, request=None)
    assert found.tools_called == bool(found.tool_calls)
    assert len({call.id for call in found.tool_calls}) == len(found.tool_calls)
    return found.content, [(c.function.name, json.loads(c.function.arguments)) for c in found.tool_calls]


def streamed(text: str, size: int) -> tuple[str, list[Call]]:
    reader, said, calls = parser(), "", {}
    for end in range(size, len(text) + size, size):
        before, now = text[: end - size], text[:end]
        delta = reader.extract_tool_calls_streaming(before, now, now[len(before) :], [], [], [], None)
        if delta is not None:
            said += delta.content or ""
            calls |= {c.index: (c.function.name, c.function.arguments) for c in delta.tool_calls}
    assert reader.get_remaining_unstreamed_args() == ""
    return said, [(calls[index][0], json.loads(calls[index][1])) for index in sorted(calls)]


@pytest.mark.parametrize("answer", CALLS)
def test_calls_are_read(answer: str) -> None:
    text, said, calls = CALLS[answer]

    assert whole(text) == (said or None, calls)
    assert [streamed(text, size) for size in (1, 3, 1000)] == [(said, calls)] * 3


@pytest.mark.parametrize("text", PLAIN)
def test_an_answer_without_a_call_is_an_answer(text: str) -> None:
    assert whole(text) == (text, [])
    assert [streamed(text, size) for size in (1, 3, 5000)] == [(text, [])] * 3


@pytest.mark.parametrize("text", [ONE[:-3], '{"name": ' * 50 + "7"])
def test_a_call_that_was_cut_is_no_call_and_text_where_the_end_is_known(text: str) -> None:
    assert whole(text) == (text, [])
    assert streamed(text, len(text)) == ("", [])


def test_what_is_nested_too_deep_to_be_read_is_text() -> None:
    text = '{"name": ' + "[" * 5000 + "."

    assert whole(text) == streamed(text, len(text)) == (text, [])
