"""A served model's chat template and parsers, asked of its vLLM: conversation → tokens, tokens → message, and turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from woodshed.engine.gateway.chat_request import BadRequest, parse_request, to_message, to_messages, to_tools
from woodshed.engine.gateway.upstream_call import Upstream
from woodshed.errors import EngineError
from woodshed.types import Completion, Message, TokenCall

_NONE = -1
"""The version of weights that sampled nothing."""
_RENDER, _PARSE = "/v1/chat/completions/render", "/v1/chat/completions/derender"
NEEDED = ("/v1/chat/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", _RENDER, _PARSE, "/tokenize")


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedTurn:
    """One assistant message of a finished conversation, as its model would have had to sample it."""

    index: int
    """Which message it is."""
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """The answer, with the token that ends it."""


class ServedTemplate:
    """The chat template and the parsers of one served model."""

    def __init__(self, upstream: Upstream) -> None:
        """Ask the vLLM of `upstream`."""
        self._upstream = upstream
        self._stop_ids: frozenset[int] | None = None

    async def render(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], *, generation_prompt: bool = True
    ) -> tuple[int, ...]:
        """Return the tokens of a conversation; raises BadRequest where it cannot be served."""
        body = _checked(messages, tools)
        body["add_generation_prompt"] = generation_prompt
        return tuple((await self._post(_RENDER, body))["token_ids"])

    async def parse(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]],
        prompt_ids: Sequence[int],
        token_ids: Sequence[int],
    ) -> Message:
        """Return what vLLM's own parsers make of an answer to a conversation."""
        model = self._upstream.server.model.name
        choice = {"index": 0, "token_ids": list(token_ids), "finish_reason": "stop"}
        body = {
            "generate_response": {"request_id": "parse", "model": model, "choices": [choice]},
            "prompt_token_ids": list(prompt_ids),
            "chat_request": _checked(messages, tools) | {"model": model},
        }
        return to_message((await self._post(_PARSE, body))["choices"][0]["message"])

    async def missing_paths(self) -> tuple[str, ...]:
        """Return those of the HTTP paths woodshed needs that this vLLM does not serve."""
        # Asked for nothing, a path that is served complains about the body; openapi.json would take vLLM a second.
        return tuple([path for path in NEEDED if await self._status(path) in (403, 404, 405)])

    async def _status(self, path: str) -> int:
        async with self._upstream.http.post(self._upstream.server.url + path, json={}) as reply:
            await reply.read()
            return reply.status

    async def max_model_len(self) -> int:
        """Return the longest prompt plus answer in tokens, as vLLM itself says it."""
        async with self._upstream.http.get(f"{self._upstream.server.url}/v1/models") as reply:
            cards = (await reply.json())["data"]
        return int(next(card["max_model_len"] for card in cards if card.get("max_model_len")))

    async def stop_ids(self) -> frozenset[int]:
        """Return the tokens that end an answer: those vLLM stops at, of the model's configuration and its tokenizer."""
        if self._stop_ids is None:
            model = self._upstream.server.model
            found = set(_declared_stop_ids(model.path))
            if (text := _json_file(model.path, "tokenizer_config.json").get("eos_token")) is not None:
                text = text["content"] if isinstance(text, dict) else text
                asked = {"prompt": text, "add_special_tokens": False}
                ids = (await self._post("/tokenize", asked))["tokens"]
                found |= set(ids) if len(ids) == 1 else set()
            self._stop_ids = frozenset(found)
        return self._stop_ids

    async def turns(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[RenderedTurn]:
        """Return every assistant message as a turn under exactly the prompt that the template puts before it.

        Raises BadRequest where the template does not write a turn as what follows its prompt, up to an end token.
        """
        places = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
        if not places:
            raise BadRequest("there is no assistant message to learn from", "messages")
        return [await self._turn(messages, tools, index) for index in places]

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
                f"{where} cannot be split from its prompt: the chat template writes the conversation otherwise once it "
                "is there, so no model could have sampled it under this prompt",
                where,
            )
        rest, stops = whole[len(prompt) :], await self.stop_ids()
        end = next((place for place, token in enumerate(rest) if token in stops), None)
        if end is None:
            raise BadRequest(
                f"{where} does not end with a token the model stops at ({sorted(stops)}) in its chat template; a model "
                "that learnt it would never stop",
                where,
            )
        return RenderedTurn(index=index, prompt_ids=prompt, token_ids=rest[: end + 1])

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        server = self._upstream.server
        await server.ready()
        raw = msgspec.json.encode(body | {"model": server.model.name})
        try:
            async with self._upstream.http.post(
                server.url + path, data=raw, headers={"content-type": "application/json"}
            ) as reply:
                status, text = reply.status, await reply.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(f"vLLM for {server.model.name!r} did not answer {path}: {error}") from error
        if status == 400:
            raise BadRequest(_said(text))
        if status != 200:
            raise EngineError(f"vLLM for {server.model.name!r} answered {path} with {status}: {_said(text)}")
        answer: dict[str, Any] = msgspec.json.decode(text)
        return answer


def to_calls(
    turns: Sequence[RenderedTurn], messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], rollout_id: str
) -> tuple[TokenCall, ...]:
    """Return turns as calls; nothing sampled them, so their log-probabilities and versions say nothing."""
    body = _checked(messages, tools)
    known, offered = to_messages(body["messages"]), tuple(to_tools(body.get("tools")))
    return tuple(
        TokenCall(
            call_id=f"{rollout_id}/{turn.index}",
            started_s=float(turn.index),
            latency_s=0.0,
            messages=tuple(known[: turn.index]),
            tools=offered,
            prompt_ids=turn.prompt_ids,
            completions=(
                Completion(
                    index=0,
                    message=known[turn.index],
                    token_ids=turn.token_ids,
                    logprobs=(0.0,) * len(turn.token_ids),
                    weight_versions=(_NONE,) * len(turn.token_ids),
                    finish_reason="stop",
                ),
            ),
            sampling={"temperature": 1.0},
        )
        for turn in turns
    )


def _checked(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a request's body as the gateway itself would send it on."""
    asked = {"model": "any", "messages": list(messages)} | ({"tools": list(tools)} if tools else {})
    return dict(parse_request(msgspec.json.encode(asked)).body)


def _said(raw: bytes) -> str:
    """Return the message of an error in OpenAI's shape, or what there is."""
    try:
        return str(msgspec.json.decode(raw)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return raw.decode(errors="replace")[:500]


def _declared_stop_ids(model: str) -> list[int]:
    """Return the end tokens of a model's generation configuration, or where it has none, of its configuration."""
    declared = _json_file(model, "generation_config.json").get("eos_token_id")
    if declared is None:
        declared = _json_file(model, "config.json").get("eos_token_id")
    return declared if isinstance(declared, list) else [] if declared is None else [declared]


def _json_file(model: str, name: str) -> dict[str, Any]:
    """Return a file of a model's folder, or of the hub's cache that vLLM has filled; empty where there is none."""
    path = Path(model) / name
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, name) if not Path(model).is_dir() else None
        if not isinstance(cached, str):
            return {}
        path = Path(cached)
    found: dict[str, Any] = json.loads(path.read_text())
    return found
