"""A chat completion, or the chunks of one → ADK's `LlmResponse`. Pure.

Only ADK needs this: its own types are Google's, while the other frameworks' clients read OpenAI's answers themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from google.adk.models.llm_response import LlmResponse
from google.genai import types

_FINISH = {"stop": "STOP", "tool_calls": "STOP", "function_call": "STOP", "length": "MAX_TOKENS",
           "content_filter": "SAFETY"}  # fmt: skip


def own_message(message: dict[str, Any]) -> dict[str, Any]:
    """Return the model's message as it is replayed: its own text, without the engine's additions."""
    replayed: dict[str, Any] = {"role": "assistant", "content": message.get("content") or None}
    if thoughts := _thoughts(message):
        replayed["reasoning"] = thoughts
    if message.get("tool_calls"):
        replayed["tool_calls"] = [
            {
                "id": call.get("id"),
                "type": "function",
                "function": {"name": call["function"]["name"], "arguments": call["function"]["arguments"]},
            }
            for call in message["tool_calls"]
        ]
    return replayed


def to_response(body: dict[str, Any], *, streamed: bool = False) -> LlmResponse:
    """Return a whole answer.

    Tool arguments that are not a JSON object are an answer that failed, as ADK has it for other models: never a call
    of the tool with other arguments.
    """
    if not body.get("choices"):
        return LlmResponse(error_code="OTHER", error_message="the engine's answer has no choice", **_about(body, {}))
    choice = body["choices"][0]
    about, why = _about(body, choice), choice.get("finish_reason")
    reason = types.FinishReason(_FINISH.get(why, "FINISH_REASON_UNSPECIFIED")) if why else None
    try:
        parts = _parts(choice["message"])
    except ValueError as error:
        cut = types.FinishReason.MAX_TOKENS if why == "length" else types.FinishReason.MALFORMED_FUNCTION_CALL
        return LlmResponse(error_code=cut.value, error_message=str(error), finish_reason=cut, **about)
    if streamed:
        about["partial"] = False
    if not parts and reason not in (None, types.FinishReason.STOP):
        said = f"the answer ended with {why!r} and no content"
        return LlmResponse(error_code=reason.value, error_message=said, finish_reason=reason, **about)
    content = types.Content(role="model", parts=parts) if parts or streamed else None
    return LlmResponse(content=content, finish_reason=reason, **about)


def _parts(message: dict[str, Any]) -> list[types.Part]:
    parts = []
    if thoughts := _thoughts(message):
        parts.append(types.Part(text=thoughts, thought=True))
    if message.get("content"):
        parts.append(types.Part(text=message["content"]))
    for call in message.get("tool_calls") or ():
        name = call["function"]["name"]
        arguments = _arguments(name, call["function"].get("arguments"))
        parts.append(types.Part(function_call=types.FunctionCall(id=call.get("id"), name=name, args=arguments)))
    return parts


def _arguments(name: str, text: str | None) -> dict[str, Any]:
    try:
        arguments = json.loads(text) if text else {}
    except ValueError as error:
        raise ValueError(f"the arguments of tool call {name!r} are not JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of tool call {name!r} are {text}, expected a JSON object")
    return arguments


def _thoughts(message: dict[str, Any]) -> str | None:
    return message.get("reasoning") or message.get("reasoning_content")


def _about(body: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {"usage_metadata": _usage(body.get("usage"))}
    tokens = (choice.get("logprobs") or {}).get("content")
    if tokens:
        about["avg_logprobs"] = sum(token["logprob"] for token in tokens) / len(tokens)
        about["logprobs_result"] = types.LogprobsResult(
            chosen_candidates=[_candidate(token) for token in tokens],
            top_candidates=[
                types.LogprobsResultTopCandidates(
                    candidates=[_candidate(top) for top in token.get("top_logprobs") or ()]
                )
                for token in tokens
            ],
        )
    return about


def _candidate(token: dict[str, Any]) -> types.LogprobsResultCandidate:
    return types.LogprobsResultCandidate(token=token["token"], log_probability=token["logprob"])


def _usage(usage: dict[str, Any] | None) -> types.GenerateContentResponseUsageMetadata | None:
    if not usage:
        return None
    return types.GenerateContentResponseUsageMetadata(
        prompt_token_count=usage.get("prompt_tokens"),
        candidates_token_count=usage.get("completion_tokens"),
        total_token_count=usage.get("total_tokens"),
        cached_content_token_count=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        thoughts_token_count=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
    )


class Gathered:
    """Collects a streamed answer: what to show of each chunk, and the whole answer at the end."""

    def __init__(self) -> None:
        """Start empty."""
        self.usage: dict[str, Any] | None = None
        self._message: dict[str, Any] = {"content": "", "reasoning": ""}
        self._calls: dict[int, dict[str, Any]] = {}
        self._trackers: dict[int, Any] = {}
        self._logprobs: list[dict[str, Any]] = []
        self._finish_reason: str | None = None

    def add(self, chunk: dict[str, Any]) -> Iterator[LlmResponse]:
        """Add a chunk; yield what an agent that streams is shown of it."""
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices") or ():
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            self._logprobs += (choice.get("logprobs") or {}).get("content") or ()
            delta = choice.get("delta") or {}
            if thoughts := _thoughts(delta):
                self._message["reasoning"] += thoughts
                yield _partial(types.Part(text=thoughts, thought=True))
            if text := delta.get("content"):
                self._message["content"] += text
                yield _partial(types.Part(text=text))
            for piece in delta.get("tool_calls") or ():
                yield _partial(self._add_call(piece))

    def _add_call(self, piece: dict[str, Any]) -> types.Part:
        index, told = piece["index"], piece.get("function") or {}
        call = self._calls.setdefault(index, {"id": None, "function": {"name": None, "arguments": ""}})
        call["id"] = piece.get("id") or call["id"]
        call["function"]["name"] = told.get("name") or call["function"]["name"]
        partial = None
        if arguments := told.get("arguments"):
            call["function"]["arguments"] += arguments
            partial = self._tracker(index).handle_chunk(arguments)
        shown = types.FunctionCall(
            id=call["id"], name=call["function"]["name"], partial_args=partial or None, will_continue=True
        )
        return types.Part(function_call=shown)

    def _tracker(self, index: int) -> Any:
        # ADK's own, as `OpenAILlm` shows partial arguments; slow to load, and needed for streamed tool calls only.
        from google.adk.utils.streaming_utils import _JsonPathTracker

        if index not in self._trackers:
            self._trackers[index] = _JsonPathTracker()
        return self._trackers[index]

    def body(self) -> dict[str, Any]:
        """Return the whole answer in the form of one that was not streamed."""
        message = {**self._message, "tool_calls": [self._calls[index] for index in sorted(self._calls)]}
        choice = {"message": message, "finish_reason": self._finish_reason, "logprobs": {"content": self._logprobs}}
        return {"choices": [choice], "usage": self.usage}


def _partial(part: types.Part) -> LlmResponse:
    return LlmResponse(content=types.Content(role="model", parts=[part]), partial=True)
