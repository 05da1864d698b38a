"""Prompts that continue recorded tokens; runs inside vLLM's own process and nowhere else.

vLLM's chat completions accept a prompt as tokens (`kv_transfer_params.prompt_token_ids`, meant for a server that
decodes what another has prefilled). Everything else works as usual: tool and reasoning parsers, streaming, grammars.
This patch fills that field from the turns that the gateway sends, where `continuation` can show that their tokens fit.
A response header tells the gateway which turn was continued, or why none was.
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

from woodshed.engine.vllm.patches.continuation import Fork, Messages, RecordedTurn, continue_turn
from woodshed.engine.vllm.patches.replace import replace_function

HISTORY = "woodshed_history"
"""Key of `kv_transfer_params` under which the gateway sends the turns, longest first."""
CONTINUED = b"x-woodshed-continued"
"""Response header: index of the turn that was continued."""
FORK = b"x-woodshed-fork"
"""Response header: why the first turn was not continued (`ForkReason`)."""
HOOKED = b"x-woodshed-hooked"
"""Response header: turns were sent and this hook has seen them. Without it, vLLM renders chats by another way."""

_Preprocess = Callable[..., Awaitable[Any]]
_fork_headers: ContextVar[dict[bytes, bytes]] = ContextVar("fork_headers")
"""The response headers of the current request, filled in while its prompt is rendered."""


def install() -> None:
    """Replace vLLM's rendering of a chat by one that tries the recorded tokens first."""
    replace_function(OnlineRenderer, "preprocess_chat", _hooked)


class ForkHeaders:
    """ASGI middleware that adds `CONTINUED` and `FORK` to the response."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Call the app, and add the headers that rendering has set."""
        headers: dict[bytes, bytes] = {}
        _fork_headers.set(headers)

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if headers and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers.items()]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _hooked(original: _Preprocess) -> _Preprocess:
    async def preprocess_chat(self: Any, request: Any, messages: list[Any], **options: Any) -> Any:
        transfer = getattr(request, "kv_transfer_params", None)
        if isinstance(transfer, dict) and HISTORY in transfer:
            history, headers = transfer.pop(HISTORY), _fork_headers.get({})
            headers[HOOKED] = b"1"
            messages = [_plain(message) for message in messages]
            chat = _Chat(self, request, options)
            # In the thread in which vLLM renders and tokenizes; it does not see the ContextVar, so `headers` is passed.
            token_ids = await asyncio.get_running_loop().run_in_executor(
                self.renderer._executor, chat.prompt_ids, messages, history, headers
            )
            request.kv_transfer_params = None if token_ids is None else {"prompt_token_ids": token_ids}
        return await original(self, request, messages, **options)

    return preprocess_chat


def _plain(message: Any) -> Any:
    """Return a message whose tool calls can be read more than once; pydantic's are a one-time iterator."""
    calls = message.get("tool_calls")
    return message if calls is None else {**message, "tool_calls": [dict(call) for call in calls]}


class _Chat:
    """One request's template and tokenizer: `continuation.RenderConversation` and `continuation.Codec`."""

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
        """Return the prompt's tokens, or None where vLLM is to render it; set `CONTINUED` or `FORK` in `headers`."""
        if is_mistral_tokenizer(self._tokenizer):
            return None
        try:
            new = self(messages, generation=True)
            for index, turn in enumerate(history):
                try:
                    token_ids = continue_turn(self, self, messages, new, RecordedTurn(**turn))
                except Fork as fork:
                    headers.setdefault(FORK, fork.reason.encode())
                else:
                    headers[CONTINUED] = str(index).encode()
                    prompt = self._sizes.apply_post_tokenization(self._tokenizer, {"prompt_token_ids": token_ids})
                    return list(prompt["prompt_token_ids"])
        except VLLMValidationError:
            # If it is about the new conversation or its length, vLLM's own rendering raises it again and answers it. If
            # it is about an earlier part, the template refuses a conversation that ends there.
            headers.setdefault(FORK, b"template_rewrites")
        return None

    def __call__(self, messages: Messages, *, generation: bool) -> str:
        """Return the text of a conversation as vLLM would tokenize it."""
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
        """Whether the tokenizer lists a token as special."""
        return token_id in _special_ids(self._tokenizer)


_special_ids_of: dict[int, frozenset[int]] = {}


def _special_ids(tokenizer: Any) -> frozenset[int]:
    # A server has one tokenizer for its whole life, so its address identifies it.
    if id(tokenizer) not in _special_ids_of:
        added = tokenizer.added_tokens_decoder.items()
        _special_ids_of[id(tokenizer)] = frozenset(token_id for token_id, token in added if token.special)
    return _special_ids_of[id(tokenizer)]
