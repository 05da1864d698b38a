"""Which tokens of a right verdict do vLLM's two grammar libraries forbid? Run with the engine's Python."""

from __future__ import annotations

import json

import llguidance.hf
import xgrammar
from llguidance import LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from transformers import AutoTokenizer

from woodshed.rewards.prompt import answer_schema

WEIGHTS = "packages/tiny_world/src/woodshed_tiny_world/weights/judge"
VERDICT = json.dumps({
    "scores": [{"id": i, "explanation": "wrong tool", "score": 0.1} for i in "ABC"]
})  # fmt: skip

tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
ids = tokenizer(VERDICT, add_special_tokens=False)["input_ids"]
schema = json.dumps(answer_schema(list("ABC")))

info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
matcher = xgrammar.GrammarMatcher(xgrammar.GrammarCompiler(info).compile_json_schema(schema))
mask = xgrammar.allocate_token_bitmask(1, len(tokenizer))
forbidden = []
for token in ids:
    matcher.fill_next_token_bitmask(mask)
    if not (mask[0, token // 32].item() >> (token % 32)) & 1:
        forbidden.append(tokenizer.decode([token]))
    matcher.accept_token(token)
print("xgrammar forbids", forbidden)

exact = LLMatcher(llguidance.hf.from_tokenizer(tokenizer, len(tokenizer)), LLMatcher.grammar_from_json_schema(schema))
bits = allocate_token_bitmask(1, len(tokenizer))
forbidden = []
for token in ids:
    fill_next_token_bitmask(exact, bits)
    if not (int(bits[0, token // 32]) >> (token % 32)) & 1:
        forbidden.append(tokenizer.decode([token]))
    exact.consume_token(token)
print("llguidance forbids", forbidden)
