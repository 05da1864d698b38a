"""A scripted answer in vLLM 0.32's own JSON: OpenAI's, with token ids and log-probabilities where asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from woodshed.testing import wire
from woodshed.testing.replies import Reply
from woodshed.types import Completion, TokenCall

_NULL = {"service_tier": None, "system_fingerprint": None, "prompt_logprobs": None, "kv_transfer_params": None}
_NULL_MESSAGE = {"refusal": None, "annotations": None, "audio": None, "function_call": None, "reasoning": None}


def completion(body: dict[str, Any], replies: Sequence[Reply], call: TokenCall) -> dict[str, Any]:
    """Return the answer to a request that does not stream."""
    made = wire.completion(body, replies, call)
    wants_ids, wants_logprobs = body.get("return_token_ids"), body.get("logprobs")
    for choice, sampled in zip(made["choices"], call.completions, strict=True):
        choice["message"] = _NULL_MESSAGE | choice["message"]
        choice["logprobs"] = _logprobs(sampled, 0, None) if wants_logprobs else None
        choice["stop_reason"] = None
        choice["token_ids"] = list(sampled.token_ids) if wants_ids else None
    return made | _NULL | {"prompt_token_ids": list(call.prompt_ids) if wants_ids else None}


def chunks(body: dict[str, Any], replies: Sequence[Reply], call: TokenCall) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a stream: the first has the prompt's tokens, each further one the tokens it was made of."""
    plain = [chunk for chunk in wire.chunks(body, replies, call)]
    wants_ids = body.get("return_token_ids")
    for index, sampled in enumerate(call.completions):
        own = [chunk for chunk in plain if chunk["choices"] and chunk["choices"][0]["index"] == index]
        if wants_ids and index == 0:
            own[0]["prompt_token_ids"] = list(call.prompt_ids)
        _spread(own[1:], sampled, body)
    yield from plain


def _spread(chunks: Sequence[dict[str, Any]], sampled: Completion, body: dict[str, Any]) -> None:
    """Give each chunk after the opening its share of the tokens; the last takes what is left."""
    share = max(1, len(sampled.token_ids) // len(chunks))
    for number, chunk in enumerate(chunks):
        start = min(number * share, len(sampled.token_ids))
        end = len(sampled.token_ids) if number == len(chunks) - 1 else min(start + share, len(sampled.token_ids))
        choice = chunk["choices"][0]
        if body.get("return_token_ids"):
            choice["token_ids"] = list(sampled.token_ids[start:end])
        if body.get("logprobs"):
            choice["logprobs"] = _logprobs(sampled, start, end)


def _logprobs(sampled: Completion, start: int, end: int | None) -> dict[str, Any]:
    tokens = zip(sampled.token_ids[start:end], sampled.logprobs[start:end], strict=True)
    return {"content": [{"token": str(t), "logprob": p, "bytes": None, "top_logprobs": []} for t, p in tokens]}
