"""A prompt goes on from tokens that were sampled before; runs inside vLLM's own process and nowhere else.

vLLM's chat completions take a prompt as tokens (`kv_transfer_params.prompt_token_ids`, made for a server that decodes
what another has prefilled) and leave everything else as it is: tool and reasoning parsers, streaming, grammars. This
fills that field in from the turns that the gateway names, where `continuation` can show that the tokens fit. A header
tells the gateway which turn was gone on from, or why none was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.renderers import merge_kwargs
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.utils.mistral import is_mistral_tokenizer

from woodshed.engine.vllm.patches.continuation import Fork, Messages, Recorded, continued

HISTORY = "woodshed_history"
"""Key of `kv_transfer_params` under which the gateway names the turns, best first."""
CONTINUED = b"x-woodshed-continued"
FORK = b"x-woodshed-fork"

_Preprocess = Callable[..., Awaitable[Any]]
_verdict: ContextVar[dict[bytes, bytes]] = ContextVar("verdict")


def install() -> None:
    """Put this in front of vLLM's own rendering of a chat."""
    OnlineRenderer.preprocess_chat = _hooked(OnlineRenderer.preprocess_chat)


class ForkHeaders:
    """Middleware that tells the gateway what became of the turns it named."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        """Stand in front of `app`."""
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Add the headers that rendering has left."""
        headers: dict[bytes, bytes] = {}
        _verdict.set(headers)

        async def tell(message: MutableMapping[str, Any]) -> None:
            if headers and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers.items()]
            await send(message)

        await self._app(scope, receive, tell)


def _hooked(original: _Preprocess) -> _Preprocess:
    async def preprocess_chat(online: Any, request: Any, messages: list[Any], **options: Any) -> Any:
        transfer = getattr(request, "kv_transfer_params", None)
        if isinstance(transfer, dict) and HISTORY in transfer:
            history, headers = transfer.pop(HISTORY), _verdict.get({})
            messages = [_plain(message) for message in messages]
            chat = _Chat(online, request, options)
            # The thread in which vLLM renders and tokenizes, too; it would not see the context's variable.
            token_ids = await asyncio.get_running_loop().run_in_executor(
                online.renderer._executor, chat.prompt_ids, messages, history, headers
            )
            request.kv_transfer_params = None if token_ids is None else {"prompt_token_ids": token_ids}
        return await original(online, request, messages, **options)

    return preprocess_chat


def _plain(message: Any) -> Any:
    """Return a message whose tool calls can be read more than once; pydantic's are an iterator."""
    calls = message.get("tool_calls")
    return message if calls is None else {**message, "tool_calls": [dict(call) for call in calls]}


class _Chat:
    """One request's template and tokenizer, as `continuation` wants them."""

    def __init__(self, online: Any, request: Any, options: dict[str, Any]) -> None:
        self._renderer = online.renderer
        self._tokenizer = online.renderer.get_tokenizer()
        self._sizes = request.build_tok_params(online.model_config)
        self._params = request.build_chat_params(
            options["default_template"], options["default_template_content_format"]
        ).with_defaults(
            merge_kwargs(options["default_template_kwargs"], {"tools": options.get("tool_dicts"), "tokenize": False})
        )

    def prompt_ids(
        self, messages: Messages, history: Sequence[dict[str, Any]], headers: dict[bytes, bytes]
    ) -> list[int] | None:
        """Return the prompt's tokens, or None where it is to be rendered; leave the verdict in `headers`."""
        if is_mistral_tokenizer(self._tokenizer):
            return None
        try:
            new = self(messages, generation=True)
            for place, turn in enumerate(history):
                try:
                    token_ids = continued(self, self, messages, new, Recorded(**turn))
                except Fork as fork:
                    headers.setdefault(FORK, fork.reason.encode())
                else:
                    headers[CONTINUED] = str(place).encode()
                    prompt = self._sizes.apply_post_tokenization(self._tokenizer, {"prompt_token_ids": token_ids})
                    return list(prompt["prompt_token_ids"])
        except VLLMValidationError:
            # Of the new conversation, or of its size: the plain way meets it again and answers it. Of an older one: a
            # template that refuses half a conversation.
            headers.setdefault(FORK, b"template_rewrites")
        return None

    def __call__(self, messages: Messages, *, generation: bool) -> str:
        """Return the text that vLLM would tokenize."""
        options = self._params.chat_template_kwargs | {"add_generation_prompt": generation}
        _, prompt = self._renderer.render_messages(list(messages), replace(self._params, chat_template_kwargs=options))
        return str(prompt["prompt"])

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of some tokens, special ones included."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def is_special(self, token_id: int) -> bool:
        """Whether a token ends or begins something and stands for no text."""
        return token_id in _special_ids(self._tokenizer)


_known: dict[int, frozenset[int]] = {}


def _special_ids(tokenizer: Any) -> frozenset[int]:
    # A server has one tokenizer for life, so its address names it.
    if id(tokenizer) not in _known:
        added = tokenizer.added_tokens_decoder.items()
        _known[id(tokenizer)] = frozenset(token_id for token_id, token in added if token.special)
    return _known[id(tokenizer)]
