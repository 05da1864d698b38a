"""vLLM's answer, taken apart: what the caller asked for goes on, and the tokens stay here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from woodshed.engine.gateway.chat_request import ChatRequest, to_message
from woodshed.types import Completion, Message, ToolRequest

DONE = b"data: [DONE]\n\n"

# Fields of vLLM's that OpenAI's answer does not have.
_NOT_OPENAI = (
    "prompt_token_ids",
    "prompt_logprobs",
    "prompt_text",
    "kv_transfer_params",
    "ec_transfer_params",
    "metrics",
)
_NOT_OPENAI_CHOICE = ("token_ids", "routed_experts", "stop_reason")
_NULL_IN_MESSAGE = ("reasoning", "audio", "function_call", "annotations")


@dataclass(kw_only=True, slots=True)
class _Choice:
    """One answer of a stream, as far as it has come."""

    role: str = "assistant"
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: dict[int, dict[str, str]] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None


def split_reply(raw: bytes, request: ChatRequest, version: int) -> tuple[bytes, list[int], list[Completion]]:
    """Return the caller's answer, the prompt's tokens and the completions of a whole answer."""
    reply = msgspec.json.decode(raw)
    prompt_ids = reply["prompt_token_ids"]
    completions = [_completion(choice, version) for choice in reply["choices"]]
    reply["model"] = request.model
    for name in _NOT_OPENAI:
        reply.pop(name, None)
    for choice in reply["choices"]:
        _strip_choice(choice, request)
        message = choice["message"]
        for name in _NULL_IN_MESSAGE:
            if message.get(name) is None:
                message.pop(name, None)
    return msgspec.json.encode(reply), prompt_ids, completions


class StreamSplitter:
    """Takes a stream of server-sent events apart while it passes."""

    def __init__(self, request: ChatRequest) -> None:
        """Start before the first event."""
        self.prompt_ids: list[int] = []
        self.error: str | None = None
        self.said_something = False
        """Whether the caller was sent any part of an answer; if not, the call can be made again unseen."""
        self._request = request
        self._choices: dict[int, _Choice] = {}
        self._rest = b""
        self.is_done = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they come; return the bytes that go on to the caller (all but the final `[DONE]`)."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        return b"".join(self._pass_on(events))

    def completions(self, version: int) -> list[Completion]:
        """Return what has been sampled so far."""
        return [
            Completion(
                index=index,
                message=Message(
                    role="assistant",
                    content="".join(choice.content) or None,
                    tool_requests=tuple(ToolRequest(**call) for _, call in sorted(choice.tool_calls.items())),
                ),
                reasoning="".join(choice.reasoning) or None,
                token_ids=tuple(choice.token_ids),
                logprobs=tuple(choice.logprobs),
                weight_versions=(version,) * len(choice.token_ids),
                finish_reason=choice.finish_reason,
            )
            for index, choice in sorted(self._choices.items())
        ]

    def _pass_on(self, events: list[bytes]) -> Iterator[bytes]:
        for event in events:
            payload = event.strip().removeprefix(b"data:").strip()
            if payload == b"[DONE]":
                self.is_done = True
            elif payload:
                chunk = msgspec.json.decode(payload)
                if "error" in chunk:
                    self.error = str(chunk["error"].get("message", chunk["error"]))
                elif self._keep(chunk):
                    yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def _keep(self, chunk: dict[str, Any]) -> bool:
        """Note a chunk's tokens, strip them, and say whether anything is left that the caller asked for."""
        self.prompt_ids = chunk.get("prompt_token_ids") or self.prompt_ids
        chunk["model"] = self._request.model
        for name in _NOT_OPENAI:
            chunk.pop(name, None)
        keep = not chunk["choices"]
        for choice in chunk["choices"]:
            self._note(choice)
            delta = choice["delta"]
            opens = "role" in delta
            _strip_choice(choice, self._request)
            has_logprobs = choice["logprobs"] is not None
            keep = keep or bool(delta) or choice.get("finish_reason") is not None or has_logprobs
            self.said_something = self.said_something or (keep and not opens)
        return keep

    def _note(self, choice: dict[str, Any]) -> None:
        seen = self._choices.setdefault(choice["index"], _Choice())
        delta = choice["delta"]
        if delta.get("content"):
            seen.content.append(delta["content"])
        if delta.get("reasoning"):
            seen.reasoning.append(delta["reasoning"])
        for part in delta.get("tool_calls") or ():
            call = seen.tool_calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
            function = part.get("function") or {}
            call["id"] = part.get("id") or call["id"]
            call["name"] = function.get("name") or call["name"]
            call["arguments"] += function.get("arguments") or ""
        seen.token_ids.extend(choice.get("token_ids") or ())
        seen.logprobs.extend(_logprobs(choice))
        seen.finish_reason = choice.get("finish_reason") or seen.finish_reason


def rename(raw: bytes, model: str) -> bytes:
    """Return a whole answer under the name that the caller asked for."""
    reply = msgspec.json.decode(raw)
    reply["model"] = model
    return msgspec.json.encode(reply)


def _completion(choice: dict[str, Any], version: int) -> Completion:
    token_ids = tuple(choice["token_ids"])
    return Completion(
        index=choice["index"],
        message=to_message(choice["message"]),
        reasoning=choice["message"].get("reasoning") or None,
        token_ids=token_ids,
        logprobs=tuple(_logprobs(choice)),
        weight_versions=(version,) * len(token_ids),
        finish_reason=choice["finish_reason"],
    )


def _logprobs(choice: dict[str, Any]) -> list[float]:
    logprobs = choice.get("logprobs") or {}
    if "sampled" in logprobs:
        return list(logprobs["sampled"])
    return [token["logprob"] for token in logprobs.get("content") or ()]


def _strip_choice(choice: dict[str, Any], request: ChatRequest) -> None:
    for name in _NOT_OPENAI_CHOICE:
        choice.pop(name, None)
    if not request.wants_logprobs:
        choice["logprobs"] = None
