"""vLLM's answer, split in two: what the caller asked for is passed on, and the tokens are kept for the record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from woodshed.engine.gateway.chat_request import ChatRequest
from woodshed.engine.gateway.messages import to_message
from woodshed.types import Completion, Message, ToolRequest

DONE = b"data: [DONE]\n\n"

# Fields that vLLM adds to OpenAI's answer.
_NOT_OPENAI = (
    "prompt_token_ids",
    "prompt_logprobs",
    "prompt_text",
    "kv_transfer_params",
    "ec_transfer_params",
    "metrics",
)
_NOT_OPENAI_CHOICE = ("token_ids", "routed_experts", "stop_reason")
_NO_ROOM = "max_tokens must be at least 1, got 0"
_OPTIONAL_IN_MESSAGE = ("reasoning", "audio", "function_call", "annotations")


@dataclass(kw_only=True, slots=True)
class _Choice:
    """One streamed answer as received so far."""

    role: str = "assistant"
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: dict[int, dict[str, str]] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None


def refusal(raw: bytes, request: ChatRequest) -> bytes:
    """Return vLLM's refusal of a request, as JSON, for the caller.

    A prompt that fills the context exactly leaves no token for the answer, and vLLM blames a `max_tokens` that nobody
    asked for. Frameworks and runs know a conversation that is too long by other words.
    """
    try:
        error = msgspec.json.decode(raw)["error"]
        has_no_room = error["param"] == "max_tokens" and error["message"].startswith(_NO_ROOM)
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return raw
    if not has_no_room or request.body.get("max_tokens") == 0:
        return raw
    said = "The prompt is as long as this model's maximum context length, which leaves no room for an answer."
    return msgspec.json.encode({"error": error | {"message": said, "param": "input_tokens"}})


def split_reply(raw: bytes, request: ChatRequest, version: int) -> tuple[bytes, list[int], list[Completion]]:
    """Return the caller's part of a complete answer, the prompt's tokens, and the completions.

    Args:
        raw: vLLM's answer, as JSON.
        request: What the caller asked for.
        version: Version of the weights that sampled it.
    """
    reply = msgspec.json.decode(raw)
    prompt_ids = reply["prompt_token_ids"]
    completions = [_completion(choice, version) for choice in reply["choices"]]
    reply["model"] = request.model
    _strip(reply)
    for choice in reply["choices"]:
        _strip_choice(choice, request)
        message = choice["message"]
        for name in _OPTIONAL_IN_MESSAGE:
            if message.get(name) is None:
                message.pop(name, None)
    return msgspec.json.encode(reply), prompt_ids, completions


def broken_call(request: ChatRequest, completions: Sequence[Completion]) -> str | None:
    """Return what is wrong with a tool call that `tool_choice` forced; None where nothing is.

    vLLM's grammar of a forced call leaves the arguments of a tool without `strict` open to any JSON. A model that
    writes a string there, or a list, would have it passed on as the arguments of a call that its agent demanded.
    Arguments that were cut at the token limit are the caller's to see, as with any other answer.
    """
    if not _is_forced(request):
        return None
    for completion in completions:
        for call in completion.message.tool_requests:
            if completion.finish_reason != "length" and not _is_object(call.arguments):
                return (
                    f"tool_choice demanded a call, and the arguments of {call.name!r} are {call.arguments[:200]!r}; "
                    "expected a JSON object"
                )
    return None


def _is_forced(request: ChatRequest) -> bool:
    choice = request.body.get("tool_choice")
    return choice == "required" or isinstance(choice, dict)


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(arguments), dict)
    except msgspec.DecodeError:
        return False


class StreamSplitter:
    """Splits a stream of server-sent events while it is passed on."""

    def __init__(self, request: ChatRequest) -> None:
        """Start before the first event."""
        self.prompt_ids: list[int] = []
        self.error: str | None = None
        self.has_content = False
        """Whether the caller was sent any part of an answer; if not, the call can be repeated without the caller
        noticing. An answer that must be a tool call is sent when it is whole: it may be none (`broken_call`)."""
        self._request = request
        self._is_held = _is_forced(request)
        self._choices: dict[int, _Choice] = {}
        self._rest = b""
        self.is_done = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream; return those for the caller (all but the final `[DONE]`)."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        return b"".join(self._split(events))

    def completions(self, version: int) -> list[Completion]:
        """Return the completions sampled so far, by the weights of `version`."""
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

    def _split(self, events: list[bytes]) -> Iterator[bytes]:
        for event in events:
            payload = event.strip().removeprefix(b"data:").strip()
            if payload == b"[DONE]":
                self.is_done = True
            elif payload:
                chunk = msgspec.json.decode(payload)
                if "error" in chunk:
                    self.error = str(chunk["error"].get("message", chunk["error"]))
                elif self._strip(chunk):
                    yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def _strip(self, chunk: dict[str, Any]) -> bool:
        """Record a chunk's tokens, remove them, and return whether anything is left that the caller asked for."""
        self.prompt_ids = chunk.get("prompt_token_ids") or self.prompt_ids
        chunk["model"] = self._request.model
        _strip(chunk)
        is_wanted = not chunk["choices"]
        for choice in chunk["choices"]:
            self._record(choice)
            delta = choice["delta"]
            opens = "role" in delta
            _strip_choice(choice, self._request)
            has_logprobs = choice["logprobs"] is not None
            is_wanted = is_wanted or bool(delta) or choice.get("finish_reason") is not None or has_logprobs
            self.has_content = self.has_content or (is_wanted and not opens and not self._is_held)
        return is_wanted

    def _record(self, choice: dict[str, Any]) -> None:
        received = self._choices.setdefault(choice["index"], _Choice())
        delta = choice["delta"]
        if delta.get("content"):
            received.content.append(delta["content"])
        if delta.get("reasoning"):
            received.reasoning.append(delta["reasoning"])
        for part in delta.get("tool_calls") or ():
            call = received.tool_calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
            function = part.get("function") or {}
            call["id"] = part.get("id") or call["id"]
            call["name"] = function.get("name") or call["name"]
            call["arguments"] += function.get("arguments") or ""
        received.token_ids.extend(choice.get("token_ids") or ())
        received.logprobs.extend(_logprobs(choice))
        received.finish_reason = choice.get("finish_reason") or received.finish_reason


def rename(raw: bytes, model: str) -> bytes:
    """Return a complete answer with the model name that the caller used."""
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


def _strip(reply: dict[str, Any]) -> None:
    for name in _NOT_OPENAI:
        reply.pop(name, None)
    if reply.get("usage") is not None:
        reply["usage"]["prompt_tokens_details"] = None  # how much vLLM had in its cache is the engine's to know


def _strip_choice(choice: dict[str, Any], request: ChatRequest) -> None:
    for name in _NOT_OPENAI_CHOICE:
        choice.pop(name, None)
    if not request.wants_logprobs:
        choice["logprobs"] = None
