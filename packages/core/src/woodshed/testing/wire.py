"""A scripted reply as OpenAI's JSON: one completion object, or the chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from woodshed.testing.replies import Reply
from woodshed.testing.sessions import finish_reason
from woodshed.types import TokenCall

CREATED = 1_700_000_000
PIECES = 3
"""Text and tool arguments are streamed in this many deltas."""


def completion(body: dict[str, Any], replies: Sequence[Reply], call: TokenCall) -> dict[str, Any]:
    """Return the answer to a request that does not stream."""
    choices = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": reply.content,
                **({"tool_calls": _tool_calls(reply)} if reply.tool_requests else {}),
            },
            "logprobs": None,
            "finish_reason": finish_reason(reply),
        }
        for index, reply in enumerate(replies)
    ]
    return {**_head(body, call, "chat.completion"), "choices": choices, "usage": _usage(call)}


def chunks(body: dict[str, Any], replies: Sequence[Reply], call: TokenCall) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a streamed answer; the last one carries usage if it was asked for."""
    head = _head(body, call, "chat.completion.chunk")
    for index, reply in enumerate(replies):
        for delta in _deltas(reply):
            yield {**head, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]}
        last = {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason(reply)}
        yield {**head, "choices": [last]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": _usage(call)}


def _deltas(reply: Reply) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    for piece in _split(reply.content or ""):
        yield {"content": piece}
    for index, call in enumerate(_tool_calls(reply)):
        function = call["function"]
        yield {"tool_calls": [{**call, "index": index, "function": {**function, "arguments": ""}}]}
        for piece in _split(function["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _split(text: str) -> Iterator[str]:
    size = -(-len(text) // PIECES)
    return (text[start : start + size] for start in range(0, len(text), size or 1))


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in reply.tool_requests
    ]


def _head(body: dict[str, Any], call: TokenCall, kind: str) -> dict[str, Any]:
    # The id depends on the request alone, so that two runs of the same script give equal answers.
    return {"id": f"chatcmpl-{len(call.prompt_ids)}", "object": kind, "created": CREATED, "model": body["model"]}


def _usage(call: TokenCall) -> dict[str, Any]:
    prompt, sampled = len(call.prompt_ids), sum(len(c.token_ids) for c in call.completions)
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}
