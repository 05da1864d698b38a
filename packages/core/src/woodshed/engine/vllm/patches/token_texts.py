"""A cache of token texts; runs inside vLLM's own process and nowhere else.

vLLM decodes every sampled token on its own whenever log-probabilities are requested, as they are for every recorded
call. A token's text is always the same, so each is decoded once per server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import vllm.v1.engine.logprobs as logprobs

from woodshed.engine.vllm.patches.replace import replace_function


def install() -> None:
    """Put the cache in front of vLLM's own lookup."""
    replace_function(logprobs, "convert_ids_list_to_tokens", cached)


def cached(look_up: Callable[[Any, list[int]], list[str]]) -> Callable[[Any, list[int]], list[str]]:
    """Return `look_up` with a cache for each tokenizer."""
    caches: dict[int, dict[int, str]] = {}

    def texts(tokenizer: Any, token_ids: list[int]) -> list[str]:
        # A server has one tokenizer for its whole life, so its address identifies it.
        cache = caches.setdefault(id(tokenizer), {})
        for token_id in token_ids:
            if token_id not in cache:
                (cache[token_id],) = look_up(tokenizer, [token_id])
        return [cache[token_id] for token_id in token_ids]

    return texts
