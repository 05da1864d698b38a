"""Chat templates that behave as those of the model families do, in our own words, with tokenizers made on the spot."""

# ruff: noqa: E501 - a template reads best with a case in a line.

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TOOLS = [{"type": "function", "function": {"name": "price", "description": "Look up.", "parameters": {}}}]
_CORPUS = [
    "user assistant system tool",
    'price {"name": "price", "arguments": {"of": "a harp"}}',
    "How much is the harp?",
]

QWEN25 = """
{%- if tools %}<|im_start|>system
{{ messages[0].content if messages[0].role == 'system' else 'You help.' }}
<tools>{% for t in tools %}
{{ t | tojson }}{% endfor %}
</tools><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}
{%- elif m.role == 'assistant' %}{{ '<|im_start|>assistant' }}
{%- if m.content %}{{ '\n' + m.content }}{% endif %}
{%- for c in m.tool_calls or [] %}{{ '\n<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' + (c.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}
{{- '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}
{%- if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# Keeps the thoughts since the last question and drops the older ones; an empty thought only in the newest turn.
QWEN3 = """
{%- if tools %}{{ '<|im_start|>system\n<tools>' }}{% for t in tools %}{{ '\n' + (t | tojson) }}{% endfor %}{{ '</tools><|im_end|>\n' }}{% endif %}
{%- set ns = namespace(query=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role in ('user', 'system') %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- elif m.role == 'assistant' %}
{%- set said = m.content or '' %}{% set thought = m.reasoning or '' %}
{%- if not thought and '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}{% set said = said.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.query and (loop.last or thought) %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{% endif %}
{{- said }}
{%- for c in m.tool_calls or [] %}{{ ('\n' if said or not loop.first else '') + '<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' + (c.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}
{{- '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' + ('<think>\n\n</think>\n\n' if enable_thinking is defined and enable_thinking is false else '') }}{% endif %}"""

LLAMA3 = """
{{- bos_token }}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' + (messages[0].content | trim if messages[0].role == 'system' else '') + '<|eot_id|>' }}
{%- for m in messages %}
{%- if m.role == 'system' and loop.first %}
{%- elif m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + (m.content | tojson) + '<|eot_id|>' }}
{%- elif m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('one tool call at a time') }}{% endif %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' + (m.tool_calls[0].function.arguments | tojson) + '}<|eot_id|>' }}
{%- else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content | trim) + '<|eot_id|>' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

GEMMA = """
{{- bos_token }}{% set ns = namespace(first='', rest=messages) %}
{%- if messages[0].role == 'system' %}{% set ns.first = messages[0].content + '\n\n' %}{% set ns.rest = messages[1:] %}{% endif %}
{%- for m in ns.rest %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (ns.first if loop.first else '') + (m.content | trim) + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

# The tools and the system's words stand in front of the last question, wherever that is.
MISTRAL = """
{{- bos_token }}{% set ns = namespace(query=-1, system='') %}
{%- if messages[0].role == 'system' %}{% set ns.system = messages[0].content + '\n\n' %}{% endif %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if loop.index0 == ns.query and tools %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
{{- '[INST] ' + (ns.system if loop.index0 == ns.query else '') + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS] {"content": ' + m.content + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}
{%- if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- '{"name": "' + c.function.name + '", "arguments": ' + (c.function.arguments | tojson) + ', "id": "' + c.id + '"}' + (', ' if not loop.last else ']' + eos_token) }}{% endfor %}
{%- elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}
{%- endif %}{% endfor %}"""

MINISTRAL = """
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' + ('[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' if tools else '') }}
{%- elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}
{%- else %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + (c.function.arguments | tojson) }}{% endfor %}{{ eos_token }}
{%- endif %}{% endfor %}"""

PHI = """
{%- for m in messages %}
{%- if m.role == 'tool' %}{{ '<|tool|>' + m.content + '<|end|>' }}
{%- else %}{{ '<|' + m.role + '|>' + (m.content or '') }}{% for c in m.tool_calls or [] %}{{ '<|tool_call|>' + c.function.name + (c.function.arguments | tojson) + '<|/tool_call|>' }}{% endfor %}{{ '<|end|>' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

PHI3 = """
{%- for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"""

# Opens every answer with a thought and never shows one again.
FORGETFUL = """
{%- for m in messages %}{{ '<|' + m.role + '|>' + m.content.split('</think>')[-1] + '<|end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"""


def hermes(name: str, arguments: str, _: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@dataclass(frozen=True, kw_only=True)
class Family:
    """A template with its tokenizer's special tokens, and how its models spell an answer."""

    template: str
    special: tuple[str, ...]
    end: str
    bos: str | None = None
    tool_call: Callable[[str, str, str], str] | None = None
    """Name, arguments as JSON, id → the text that a model writes; None where the template knows no tools."""
    lead: str = ""
    """What stands in front of an answer in words."""
    options: tuple[tuple[str, Any], ...] = ()
    metaspace: bool = False
    """SentencePiece's way: blanks become `▁`, and one is put in front of a text."""
    rstrip: bool = False
    """Special tokens swallow the blanks behind them."""


_QWEN = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>")
_MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
_PHI = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|tool_call|>", "<|/tool_call|>")

FAMILIES = {
    "qwen2.5": Family(template=QWEN25, special=_QWEN, end="<|im_end|>", tool_call=hermes),
    "qwen3": Family(template=QWEN3, special=_QWEN, end="<|im_end|>", tool_call=hermes),
    "qwen3-no-thinking": Family(
        template=QWEN3, special=_QWEN, end="<|im_end|>", tool_call=hermes, options=(("enable_thinking", False),)
    ),
    "llama3": Family(
        template=LLAMA3,
        special=_LLAMA,
        end="<|eot_id|>",
        bos="<|begin_of_text|>",
        tool_call=lambda name, arguments, _: f'{{"name": "{name}", "parameters": {arguments}}}',
    ),
    "gemma": Family(
        template=GEMMA, special=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), end="<end_of_turn>", bos="<bos>"
    ),
    "mistral": Family(
        template=MISTRAL,
        special=_MISTRAL,
        end="</s>",
        bos="<s>",
        tool_call=lambda name, arguments, id_: (
            f'[TOOL_CALLS] [{{"name": "{name}", "arguments": {arguments}, "id": "{id_}"}}]'
        ),
        lead=" ",
        metaspace=True,
    ),
    "ministral": Family(
        template=MINISTRAL,
        special=(*_MISTRAL, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[ARGS]"),
        end="</s>",
        bos="<s>",
        tool_call=lambda name, arguments, _: f"[TOOL_CALLS]{name}[ARGS]{arguments}",
    ),
    "phi": Family(
        template=PHI,
        special=_PHI,
        end="<|end|>",
        tool_call=lambda name, arguments, _: f"<|tool_call|>{name}{arguments}<|/tool_call|>",
    ),
    "phi-3": Family(template=PHI3, special=_PHI, end="<|end|>", rstrip=True),
    "forgetful": Family(template=FORGETFUL, special=_PHI, end="<|end|>"),
}


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """Train a small tokenizer for a family."""
    family = FAMILIES[name]
    made = Tokenizer(models.BPE(byte_fallback=family.metaspace, unk_token="<unk>" if family.metaspace else None))
    special = [AddedToken(text, special=True, normalized=False, rstrip=family.rstrip) for text in family.special]
    if family.metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet, more = ["▁"], ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    else:
        made.normalizer = normalizers.NFC()
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet, more = pre_tokenizers.ByteLevel.alphabet(), []
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=more, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    made.train_from_iterator(_CORPUS * 3, trainer)
    made.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=family.bos, eos_token=family.end, chat_template=family.template
    )


class Chat:
    """A family's template and tokenizer, as `continuation` wants them."""

    def __init__(self, name: str, tools: bool = True) -> None:
        self.family, self.tokenizer = FAMILIES[name], tokenizer_of(name)
        self._tools = TOOLS if tools and self.family.tool_call else None
        self.renders = 0

    def __call__(self, messages: Sequence[dict[str, Any]], *, generation: bool) -> str:
        self.renders += 1
        return self.tokenizer.apply_chat_template(
            [_parsed(message) for message in messages],
            tools=self._tools,
            tokenize=False,
            add_generation_prompt=generation,
            **dict(self.family.options),
        )

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def is_special(self, token_id: int) -> bool:
        added = self.tokenizer.added_tokens_decoder
        return token_id in added and added[token_id].special


def _parsed(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as vLLM gives it to a template: with arguments as an object."""
    if "tool_calls" not in message:
        return message
    calls = [
        call | {"function": call["function"] | {"arguments": json.loads(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return message | {"tool_calls": calls}
