"""Each token's text is looked up once per server; runs inside vLLM's own process and nowhere else.

vLLM decodes the text of every sampled token by itself whenever log-probabilities are asked for, as they are for every
recorded call. A token's text is the same each time; remembering it saves the lookup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import vllm.v1.engine.logprobs as logprobs


def install() -> None:
    """Put the memory in front of vLLM's own lookup."""
    logprobs.convert_ids_list_to_tokens = remember(logprobs.convert_ids_list_to_tokens)


def remember(look_up: Callable[[Any, list[int]], list[str]]) -> Callable[[Any, list[int]], list[str]]:
    """Return `look_up` for single tokens with a memory for each tokenizer."""
    known: dict[int, dict[int, str]] = {}

    def texts(tokenizer: Any, token_ids: list[int]) -> list[str]:
        # A server has one tokenizer for life, so its address names it.
        memory = known.setdefault(id(tokenizer), {})
        for token_id in token_ids:
            if token_id not in memory:
                (memory[token_id],) = look_up(tokenizer, [token_id])
        return [memory[token_id] for token_id in token_ids]

    return texts
