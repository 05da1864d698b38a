"""Which of vLLM's tool parsers reads a model's tool calls: chosen from what its chat template writes."""

from __future__ import annotations

import ast
import asyncio
import difflib
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from woodshed.engine.client.config import ServedModel
from woodshed.engine.vllm.chat_templates import model_type, template_of
from woodshed.errors import ConfigError

ReportProgress = Callable[[str], None]

_MARKS = (
    # What only one family writes stands before what several write: the first line that fits decides.
    ("deepseek_v4", ("｜DSML｜", "tool_calls")),
    ("deepseek_v32", ("｜DSML｜", "function_calls")),
    ("deepseek_v3", ("<｜tool▁calls▁begin｜>", "```json")),
    ("deepseek_v31", ("<｜tool▁calls▁begin｜>",)),
    ("step3", ("<｜tool_calls_begin｜>",)),
    ("kimi_k2", ("<|tool_calls_section_begin|>",)),
    ("longcat", ("<longcat_tool_call>",)),
    ("seed_oss", ("<seed:tool_call>",)),
    ("minimax_m3", ("]<]minimax[>[",)),
    ("minimax_m2", ("<minimax:tool_call>",)),
    ("muse_glimmer", ("<atem:function_calls>",)),
    ("k2_horizon", ("<ifm|tool_call",)),
    ("dots", ("<dots_function_call>",)),
    ("functiongemma", ("<start_function_call>",)),
    ("gemma4", ("<|tool_call>",)),
    ("apertus", ("<|tools_prefix|>",)),
    ("cohere_command4", ("<|START_ACTION|>", "<|START_TEXT|>")),
    ("cohere_command3", ("<|START_ACTION|>",)),
    ("openai", ("<|channel|>", "commentary")),
    ("internlm", ("<|action_start|>",)),
    ("lfm2", ("<|tool_call_start|>",)),
    ("olmo3", ("<function_calls>",)),
    ("gigachat3", ("function call<|role_sep|>",)),
    ("granite-20b-fc", ("<function_call>",)),
    ("hy_v3", ("<tool_calls", "<tool_sep")),
    ("glm45", ("<tool_call>", "<arg_key>")),
    ("qwen3_coder", ("<tool_call>", "<function=")),
    ("mistral", ("[TOOL_CALLS]",)),
    ("phi4_mini_json", ("functools",)),
    ("phi4_mini_json", ("<|tool|>", "<|/tool|>")),
    ("jamba", ("<tool_calls>", "<|bom|>")),
    ("hunyuan_a13b", ("<tool_calls>",)),
    ("granite", ("<|tool_call|>", "<|start_of_role|>")),
    ("granite4", ("<tool_call>", "<|start_of_role|>")),
    ("ernie45", ("<tool_call>", "<response>")),
    ("hermes", ("<tool_call>",)),
    ("llama4_pythonic", ("<|header_start|>", "func_name1(")),
    ("llama4_pythonic", ("<|python_start|>", "<|header_start|>")),
    ("llama4_json", ("<|header_start|>",)),
    ("pythonic", ("func_name1(",)),
    ("llama3_json", ("<|python_tag|>",)),
    ("llama3_json", ("<|start_header_id|>", '"parameters"')),
)
"""Name of a parser → pieces of text that are all in the chat templates whose calls it reads."""

OWN = {"json": "woodshed.engine.vllm.json_calls"}
"""Name of a parser that vLLM lacks → the module that adds it."""

# Models whose prompts vLLM writes without a template.
_TYPES = {"deepseek_v32": "deepseek_v32", "deepseek_v4": "deepseek_v4", "kimi_k3": "kimi_k3", "gpt_oss": "openai"}
_KNOWS_TOOLS = re.compile(r"\btools\b")


async def resolved(models: Sequence[ServedModel], progress: ReportProgress) -> tuple[ServedModel, ...]:
    """Return `models` with a parser of vLLM, or None, in place of every `auto`; what was chosen is told.

    Raises:
        ConfigError: A model has no chat template, or a parser is none of vLLM's.
    """
    return tuple([await asyncio.to_thread(_resolved, model, progress) for model in models])


def _resolved(model: ServedModel, progress: ReportProgress) -> ServedModel:
    named = model.tool_call_parser
    if named not in (None, "auto"):
        check_name(model.name, named)
    template = template_of(model)
    if template is None and (served := _TYPES.get(model_type(model))) is None:
        raise ConfigError(
            f"model {model.name!r}: {model.path!r} has no chat template, so a conversation cannot be written for it. "
            "Take the instruct version of the model, or name a Jinja file: Policy(chat_template=...) or "
            "ServedModel(chat_template=...)"
        )
    if named is None:
        return model
    if named != "auto":
        if template is not None and not _KNOWS_TOOLS.search(template):
            progress(
                f"{model.name!r}: its chat template does not show the model any tools, so {named!r} will have no calls "
                "to read unless the agent's own prompt explains how to write them"
            )
        return model
    chosen, why = (served, "its model type") if template is None else choose(template)
    if chosen is None:
        progress(f"{model.name!r}: no tool parser, because {why}; an agent with tools needs another model or template")
    else:
        progress(f"{model.name!r}: tool calls are read by {chosen!r}, chosen from {why}")
    return model.model_copy(update={"tool_call_parser": chosen})


def choose(template: str) -> tuple[str | None, str]:
    """Return the parser that reads the calls that a chat template writes, and why; None where there is none."""
    if not _KNOWS_TOOLS.search(template):
        return None, "the chat template knows no tools"
    known = registered()
    for name, marks in _MARKS:
        if all(mark in template for mark in marks) and (name in known or not known):
            return name, f"{' and '.join(map(repr, marks))} in its chat template"
    return None, "the chat template writes tool calls in a form that no parser is known for (tool_call_parser=NAME)"


def check_name(model: str, parser: str) -> None:
    """Raise ConfigError if vLLM has no tool parser of this name."""
    known = registered()
    if known and parser not in known:
        near = difflib.get_close_matches(parser, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ConfigError(
            f"model {model!r}: vLLM has no tool parser {parser!r}; {hint}expected 'auto', None for no tools, or one of "
            f"{', '.join(sorted(known))}"
        )


@cache
def registered() -> frozenset[str]:
    """Return the names of vLLM's tool parsers and of ours; empty where vLLM's cannot be found.

    They are read from its source: importing vLLM takes many seconds, and a name should be refused before.
    """
    spec = find_spec("vllm")
    source = Path(spec.origin or "").parent / "tool_parsers" / "__init__.py" if spec is not None else None
    if source is None or not source.is_file():
        return frozenset()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return frozenset(str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)) | OWN.keys()
    return frozenset()
