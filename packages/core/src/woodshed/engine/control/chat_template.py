"""A served model's chat template and parsers, through its vLLM: conversation → tokens, tokens → message, and turns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from woodshed.engine.gateway.chat_request import BadRequest, parse_request
from woodshed.engine.gateway.messages import to_message, to_messages, to_tools
from woodshed.engine.gateway.upstream import Upstream
from woodshed.errors import EngineError
from woodshed.types import Completion, Message, TokenCall

_NO_VERSION = -1
"""Stands for the weight version of tokens that no weights sampled."""
_RENDER_PATH, _PARSE_PATH = "/v1/chat/completions/render", "/v1/chat/completions/derender"
_TEMPLATE_WITH_TOOLS = (
    "give one that writes them: Policy(chat_template='FILE.jinja'), `woodshed sft --chat-template FILE.jinja`"
)
REQUIRED_PATHS = (
    "/v1/chat/completions",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    _RENDER_PATH,
    _PARSE_PATH,
    "/tokenize",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedTurn:
    """One assistant message of a finished conversation, as the tokens that a model would have sampled for it."""

    index: int
    """Index of the message in the conversation."""
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """The answer, including the token that ends it."""


class ServedTemplate:
    """The chat template and the parsers of one served model."""

    def __init__(self, upstream: Upstream) -> None:
        """Use the vLLM of `upstream`."""
        self._upstream = upstream
        self._stop_ids: frozenset[int] | None = None

    async def render(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], *, generation_prompt: bool = True
    ) -> tuple[int, ...]:
        """Return the tokens of a conversation.

        Raises:
            BadRequest: The conversation cannot be served.
            EngineError: vLLM failed.
        """
        body = _request_body(messages, tools)
        body["add_generation_prompt"] = generation_prompt
        return tuple((await self._post(_RENDER_PATH, body))["token_ids"])

    async def parse(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]],
        prompt_ids: Sequence[int],
        token_ids: Sequence[int],
    ) -> Message:
        """Return an answer's tokens as a message, parsed by vLLM's own tool and reasoning parsers."""
        model = self._upstream.model.name
        choice = {"index": 0, "token_ids": list(token_ids), "finish_reason": "stop"}
        body = {
            "generate_response": {"request_id": "parse", "model": model, "choices": [choice]},
            "prompt_token_ids": list(prompt_ids),
            "chat_request": _request_body(messages, tools) | {"model": model},
        }
        return to_message((await self._post(_PARSE_PATH, body))["choices"][0]["message"])

    async def missing_paths(self) -> tuple[str, ...]:
        """Return the HTTP paths that woodshed needs and this vLLM does not serve."""
        # A path that is served complains about the empty body with another status. openapi.json would take vLLM a
        # second.
        return tuple([path for path in REQUIRED_PATHS if await self._status(path) in (403, 404, 405)])

    async def _status(self, path: str) -> int:
        server = self._upstream.server
        with self._answering(path):
            async with self._upstream.http.post(server.url + path, json={}, headers=server.headers) as reply:
                await reply.read()
                return reply.status

    async def max_model_len(self) -> int:
        """Return the longest prompt plus answer in tokens, as vLLM reports it."""
        server = self._upstream.server
        with self._answering("/v1/models"):
            async with self._upstream.http.get(f"{server.url}/v1/models", headers=server.headers) as reply:
                cards = (await reply.json())["data"]
            return max(int(card["max_model_len"]) for card in cards if card.get("max_model_len"))

    @contextmanager
    def _answering(self, path: str) -> Iterator[None]:
        """Raise EngineError where vLLM does not answer, or not as vLLM does."""
        try:
            yield
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            name = self._upstream.model.name
            raise EngineError(f"vLLM for {name!r} did not answer {path}: {type(error).__name__}: {error}") from error

    async def stop_ids(self) -> frozenset[int]:
        """Return the tokens at which vLLM ends an answer, from the model's configuration and its tokenizer."""
        if self._stop_ids is None:
            model = self._upstream.server.model
            stop_ids = set(_declared_stop_ids(model.path))
            if (text := _json_file(model.path, "tokenizer_config.json").get("eos_token")) is not None:
                text = text["content"] if isinstance(text, dict) else text
                body = {"prompt": text, "add_special_tokens": False}
                token_ids = (await self._post("/tokenize", body))["tokens"]
                stop_ids |= set(token_ids) if len(token_ids) == 1 else set()
            self._stop_ids = frozenset(stop_ids)
        return self._stop_ids

    async def turns(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[RenderedTurn]:
        """Return every assistant message as a turn, under exactly the prompt that the template writes before it.

        One with `"weight": 0` is context only, as in OpenAI's fine-tuning format.

        Raises:
            BadRequest: There is no such message, or no parser for the tools, or the template does not write a
                message as its prompt followed by an answer that ends with a stop token, or leaves out its tool calls.
        """
        indices = [k for k, m in enumerate(messages) if m.get("role") == "assistant" and m.get("weight") != 0]
        if not indices:
            raise BadRequest("there is no assistant message to train on", "messages")
        if tools and self._upstream.server.model.tool_call_parser is None:
            raise BadRequest(
                "it offers tools, and no tool parser is set for this model, or fits its chat template. For a model "
                f"whose template knows no tools, {_TEMPLATE_WITH_TOOLS}",
                "tools",
            )
        return [await self._turn(messages, tools, index) for index in indices]

    async def _turn(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], index: int
    ) -> RenderedTurn:
        where = f"messages[{index}]"
        if index == 0:
            raise BadRequest(f"{where} is an assistant message with nothing before it to answer", where)
        prompt = await self.render(messages[:index], tools)
        whole = await self.render(messages[: index + 1], tools, generation_prompt=False)
        if whole[: len(prompt)] != prompt:
            raise BadRequest(
                f"{where} cannot be split from its prompt: with this message the chat template writes the messages "
                "before it differently, so no model could have sampled it under this prompt",
                where,
            )
        others = _with_other_calls(messages[: index + 1])
        if others is not None and whole == await self.render(others, tools, generation_prompt=False):
            raise BadRequest(
                f"{where} has tool calls, and the chat template writes nothing of them, so they cannot be learned: "
                f"{_TEMPLATE_WITH_TOOLS}",
                where,
            )
        answer_ids, stop_ids = whole[len(prompt) :], await self.stop_ids()
        end = next((k for k, token_id in enumerate(answer_ids) if token_id in stop_ids), None)
        if end is None:
            raise BadRequest(
                f"{where} does not end with a token the model stops at ({sorted(stop_ids)}) in its chat template; a "
                "model trained on it would never stop",
                where,
            )
        return RenderedTurn(index=index, prompt_ids=prompt, token_ids=answer_ids[: end + 1])

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        server = self._upstream.server
        await server.ready()
        try:
            raw = msgspec.json.encode(body | {"model": server.model.name})
        except (OverflowError, ValueError) as error:
            raise BadRequest(f"the request cannot be written as JSON for vLLM: {error}") from None
        try:
            async with self._upstream.http.post(
                server.url + path, data=raw, headers={"content-type": "application/json", **server.headers}
            ) as reply:
                status, text = reply.status, await reply.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(f"vLLM for {server.model.name!r} did not answer {path}: {error}") from error
        if status == 400:
            raise BadRequest(_error_message(text))
        if status != 200:
            raise EngineError(f"vLLM for {server.model.name!r} answered {path} with {status}: {_error_message(text)}")
        answer: dict[str, Any] = msgspec.json.decode(text)
        return answer


def to_calls(
    turns: Sequence[RenderedTurn], messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], rollout_id: str
) -> tuple[TokenCall, ...]:
    """Return turns as recorded calls, with placeholders for log-probabilities and versions: nothing sampled them."""
    body = _request_body(messages, tools)
    converted, tool_specs = to_messages(body["messages"]), tuple(to_tools(body.get("tools")))
    return tuple(
        TokenCall(
            call_id=f"{rollout_id}/{turn.index}",
            started_s=float(turn.index),
            latency_s=0.0,
            messages=tuple(converted[: turn.index]),
            tools=tool_specs,
            prompt_ids=turn.prompt_ids,
            completions=(
                Completion(
                    index=0,
                    message=converted[turn.index],
                    token_ids=turn.token_ids,
                    logprobs=(0.0,) * len(turn.token_ids),
                    weight_versions=(_NO_VERSION,) * len(turn.token_ids),
                    finish_reason="stop",
                ),
            ),
            sampling={"temperature": 1.0},
        )
        for turn in turns
    )


def _request_body(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a conversation as a request body, checked and completed as the gateway does it."""
    said = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    request = {"model": "any", "messages": said} | ({"tools": list(tools)} if tools else {})
    return dict(parse_request(msgspec.json.encode(request)).body)


def _with_other_calls(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Return a conversation whose last message calls tools of other names; None if it calls none."""
    last = dict(messages[-1])
    if not last.get("tool_calls"):
        return None
    last["tool_calls"] = [
        call | {"function": call["function"] | {"name": "b" if call["function"]["name"] == "a" else "a"}}
        for call in last["tool_calls"]
    ]
    return [*messages[:-1], last]


def _error_message(raw: bytes) -> str:
    """Return the message of an error in OpenAI's shape, or the raw text of anything else."""
    try:
        return str(msgspec.json.decode(raw)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return raw.decode(errors="replace")[:500]


def _declared_stop_ids(model: str) -> list[int]:
    """Return the end tokens in a model's generation configuration, or else in its configuration."""
    declared = _json_file(model, "generation_config.json").get("eos_token_id")
    if declared is None:
        declared = _json_file(model, "config.json").get("eos_token_id")
    return declared if isinstance(declared, list) else [] if declared is None else [declared]


def _json_file(model: str, name: str) -> dict[str, Any]:
    """Return a JSON file of a model's folder, or of the hub's cache that vLLM has filled; empty where there is none."""
    path = Path(model) / name
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, name) if not Path(model).is_dir() else None
        if not isinstance(cached, str):
            return {}
        path = Path(cached)
    content: dict[str, Any] = json.loads(path.read_text())
    return content
