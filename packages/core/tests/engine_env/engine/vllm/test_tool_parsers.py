"""`tool_call_parser="auto"` is what the chat template writes; what cannot work is refused before vLLM starts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from chat_families import FAMILIES, tokenizer_of
from chat_families import TOOLS as TOOL_SPECS

from woodshed.engine.client.config import ServedModel
from woodshed.engine.vllm.tool_parsers import _MARKS, OWN, choose, registered, resolved
from woodshed.errors import ConfigError, EngineError

# The engine's environment has no tiny_world installed.
WEIGHTS = Path(__file__).parents[5] / "tiny_world/src/woodshed_tiny_world/weights"
TOOLS = "{% for t in tools %}{{ t | tojson }}{% endfor %}"
# The lines of well-known templates that write a call, in our own words around them.
WRITTEN = {
    "hermes": '<tool_call>\n{"name": "\' + c.name + \'", "arguments": \' + (c.arguments | tojson) + \'}\n</tool_call>',
    "qwen3_coder": "<tool_call>\n<function=' + c.name + '>\n<parameter=' + k + '>\n",
    "glm45": "<tool_call>' + c.name + '\n<arg_key>{{ k }}</arg_key>\n<arg_value>",
    "mistral": "[TOOL_CALLS]' + c.name + '[ARGS]' + c.arguments",
    "llama3_json": '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "\' + c.name + \'", "parameters": ',
    "llama4_pythonic": "<|header_start|>assistant<|header_end|>[func_name1(params_name1=params_value1)]",
    "pythonic": "You write [func_name1(params_name1=params_value1), func_name2(params)]",
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>' + c.name + '\n```json\n",
    "deepseek_v31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + c.name + '<｜tool▁sep｜>",
    "granite": "<|start_of_role|>assistant<|end_of_role|><|tool_call|>[",
    "granite4": '<|start_of_role|>assistant<|end_of_role|><tool_call>\n{"name": ',
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
    "phi4_mini_json": "<|system|>...<|tool|>' + message['tools'] + '<|/tool|><|end|>",
    "jamba": "<|bom|><tool_calls>[",
    "hunyuan_a13b": "<tool_calls>[",
    "minimax_m2": "<minimax:tool_call>\n<invoke name=",
    "seed_oss": "<seed:tool_call>\n<function=",
    "openai": "<|start|>assistant to=functions.x<|channel|>commentary json<|message|>",
    "lfm2": "<|tool_call_start|>[f(a=1)]<|tool_call_end|>",
    "internlm": "<|action_start|><|plugin|>",
    "cohere_command3": "<|START_ACTION|>[",
    "gemma4": "<|tool_call>call:f{}<tool_call|>",
    "functiongemma": "<start_function_call>call:f{}<end_function_call>",
    "olmo3": "<function_calls>f(a=1)</function_calls>",
}


def model_folder(tmp_path: Path, template: str | list[dict[str, str]] | None, **config: Any) -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} if template else {}))
    return tmp_path


def resolve(path: Path | str, **settings: Any) -> tuple[str | None, list[str]]:
    told: list[str] = []
    (model,) = asyncio.run(resolved([ServedModel(name="policy", path=str(path), **settings)], told.append))
    return model.tool_call_parser, told


@pytest.mark.parametrize("parser", WRITTEN)
def test_the_parser_is_the_one_that_reads_what_the_template_writes(parser: str) -> None:
    chosen, why = choose(TOOLS + WRITTEN[parser])

    assert chosen == parser
    assert "in its chat template" in why


@pytest.mark.parametrize(
    ("family", "parser"),
    [
        ("qwen2.5", "hermes"), ("qwen3", "hermes"), ("llama3", None), ("mistral", "mistral"), ("ministral", "mistral"),
        ("gemma", None), ("phi-3", None), ("forgetful", None),
    ],
)  # fmt: skip
def test_each_family_gets_its_own(family: str, parser: str | None) -> None:
    assert choose(FAMILIES[family].template)[0] == parser


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, at vLLM's import
def test_every_parser_that_can_be_chosen_is_one_of_vllms_or_ours() -> None:
    from vllm.tool_parsers import ToolParserManager

    for plugin in OWN.values():
        ToolParserManager.import_tool_parser(plugin)
    assert registered() == set(ToolParserManager.list_registered())
    assert {name for name, _ in _MARKS} <= registered()


def test_what_was_chosen_and_why_is_told_in_one_line(tmp_path: Path) -> None:
    parser, told = resolve(WEIGHTS / "policy")
    none, said = resolve(model_folder(tmp_path / "m", "{% for m in messages %}{{ m.tool_calls }}{% endfor %}"))

    assert (parser, none) == ("hermes", None)
    assert told == ["'policy': tool calls are read by 'hermes', chosen from '<tool_call>' in its chat template"]
    assert len(said) == 1 and "no tool parser, because the chat template knows no tools" in said[0]


def test_where_a_model_keeps_its_template_does_not_matter(tmp_path: Path) -> None:
    calls = TOOLS + "[TOOL_CALLS]"
    named = [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": calls}]
    (tmp_path / "mine.jinja").write_text(TOOLS + "<function=<tool_call>")
    jinja = model_folder(tmp_path / "jinja", "{{ messages }}")
    (jinja / "chat_template.jinja").write_text(calls)
    tekken = model_folder(tmp_path / "tekken", None)
    (tekken / "tekken.json").write_text("{}")

    assert resolve(model_folder(tmp_path / "a", calls))[0] == "mistral"
    assert resolve(model_folder(tmp_path / "b", named))[0] == "mistral"
    assert resolve(jinja)[0] == resolve(tekken)[0] == "mistral"
    assert resolve(jinja, chat_template=str(tmp_path / "mine.jinja"))[0] == "qwen3_coder"
    assert resolve(model_folder(tmp_path / "c", None, model_type="deepseek_v32"))[0] == "deepseek_v32"


def test_a_parser_that_was_named_is_kept(tmp_path: Path) -> None:
    silent = model_folder(tmp_path / "m", "{{ messages }}")

    assert resolve(WEIGHTS / "policy", tool_call_parser="pythonic") == ("pythonic", [])
    assert resolve(WEIGHTS / "policy", tool_call_parser=None) == (None, [])
    parser, told = resolve(silent, tool_call_parser="hermes")
    assert parser == "hermes" and "does not show the model any tools" in told[0]


def test_a_parser_that_vllm_does_not_have_is_refused_with_the_near_ones_and_the_list() -> None:
    with pytest.raises(ConfigError, match=r"no tool parser 'lama3_json'; did you mean 'llama3_json' or .*hermes"):
        resolve(WEIGHTS / "policy", tool_call_parser="lama3_json")


@pytest.mark.parametrize("parser", ["auto", "hermes", None])
def test_a_model_without_a_chat_template_is_refused(tmp_path: Path, parser: str | None) -> None:
    with pytest.raises(ConfigError, match=r"has no chat template.*Policy\(chat_template=\.\.\.\)"):
        resolve(model_folder(tmp_path / "base", None), tool_call_parser=parser)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", None)
    (folder / "tokenizer_config.json").write_text('{"chat_templ')

    with pytest.raises(EngineError, match=r"tokenizer_config\.json of .* is not JSON"):
        resolve(folder)


def test_a_hub_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(EngineError, match=r"'nobody/nothing' cannot be fetched from the hub"):
        resolve("nobody/nothing")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("text", "reads", "reads_not"),
    [
        ('<tool_call>\n{"name": "price", "arguments": {"of": "a harp"}}\n</tool_call>', "hermes", "pythonic"),
        ('[price(of="a harp")]', "pythonic", "hermes"),
        ('[{"name": "price", "arguments": {"of": "a harp"}}]', "xlam", "hermes"),
        # Its tokenizer has no <|python_tag|>, without which vLLM refuses to start with llama3_json.
        ('{"name": "price", "arguments": {"of": "a harp"}}', "json", "llama3_json"),
        ('```json\n{"name": "price", "arguments": {"of": "a harp"}}\n```', "json", "hermes"),
        ('<tool_call>\n{"name": "price", "arguments": "a harp"}\n</tool_call>', None, "hermes"),
        ("The harp costs 7.", None, "hermes"),
    ],
)
def test_an_answer_is_read_by_the_parsers_of_its_form_alone(text: str, reads: str | None, reads_not: str) -> None:
    from woodshed.engine.vllm.read_calls import read_calls

    tokenizer = tokenizer_of("qwen2.5")
    found = read_calls(tokenizer, TOOL_SPECS, [tokenizer(text)["input_ids"]] * 2)

    assert reads_not not in found
    assert found == {} if reads is None else found[reads] == 2
