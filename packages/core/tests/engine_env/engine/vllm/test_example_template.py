"""The chat template of examples/shop_real writes plain talks as SmolLM2's own does, and calls that `hermes` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_families import tokenizer_of

from woodshed.engine.vllm.tool_parsers import choose

TEMPLATE = (Path(__file__).parents[6] / "examples/shop_real/template.jinja").read_text()
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_price",
            "description": "Price of an item.",
            "parameters": {
                "type": "object",
                "properties": {"item": {"type": "string"}, "currency": {"enum": ["EUR", "USD"], "type": "string"}},
            },
        },
    },
    {"type": "function", "function": {"name": "list_all"}},
]
ARGUMENTS = {"item": 'A "harp"\n', "many": [1, {"é": None}]}


def written(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, *, ask: bool = False) -> str:
    return tokenizer_of("qwen2.5").apply_chat_template(
        messages, tools=tools, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=ask
    )


def called(arguments: object) -> list[dict[str, Any]]:
    call = {"id": "c", "type": "function", "function": {"name": "get_price", "arguments": arguments}}
    return [
        {"role": "user", "content": "How much?"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "c", "content": "7 EUR"},
    ]


def test_without_tools_it_writes_what_smollm2s_own_writes() -> None:
    own = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    hello = {"role": "user", "content": "Hi."}

    assert written([hello], ask=True) == (
        f"<|im_start|>system\n{own}<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert written([{"role": "system", "content": "Be brief."}, hello]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n"
    )


def test_tools_are_shown_as_signatures() -> None:
    shown = "\nTools:\nget_price(item: string, currency: EUR or USD): Price of an item.\nlist_all()\nCall a tool like "

    assert shown in written(called({}), TOOLS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, at vLLM's import
@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS)])
def test_calls_are_read_back_by_the_parser_that_is_chosen(arguments: object) -> None:
    from vllm.tool_parsers import ToolParserManager

    parser, _ = choose(TEMPLATE)
    answer = written(called(arguments), TOOLS).split("<|im_start|>assistant\n")[1].split("<|im_end|>")[0]

    assert parser == "hermes"
    found = ToolParserManager.get_tool_parser(parser)(tokenizer_of("qwen2.5")).extract_tool_calls(answer, request=None)
    assert [(c.function.name, json.loads(c.function.arguments)) for c in found.tool_calls] == [
        ("get_price", ARGUMENTS)
    ] * 2
