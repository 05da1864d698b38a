"""A client of one chat model: question → answer over HTTP, with retries and a limit on concurrent requests."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from openai import APIStatusError, APITimeoutError, AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from woodshed.chat.model import ENGINE_PREFIX, Answer, ChatModel, LikelyToken, Question
from woodshed.chat.reply_text import read_message
from woodshed.chat.request_options import RequestOptions
from woodshed.chat.retry import UnreadableReply, excerpt, explain, is_permanent, is_transient, wait_s

_log = logging.getLogger("woodshed.chat")
_REFUSALS = ("content_filter", "refusal", "safety")
"""Why an answer ended, where a model or its provider declined."""


class ChatClient:
    """Asks a `ChatModel`. Usable from any event loop; the HTTP client is closed when no request is in flight."""

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self.name = model.model
        self._options = RequestOptions.of(model)
        self._connections: WeakKeyDictionary[asyncio.AbstractEventLoop, _Connection] = WeakKeyDictionary()

    async def ask(self, question: Question) -> Answer:
        """Return the model's reply.

        Raises:
            WoodshedError: no usable reply after all retries. Its type is the model's `error`; its message names the
                model, the server's answer and the next step.
        """
        key = self.model.key()
        connection = self._connections.setdefault(asyncio.get_running_loop(), _Connection(self.model))
        async with connection.client(key) as client, connection.semaphore:
            completion = await self._complete(client, question, key)
        return self._answer(completion)

    async def _complete(self, client: AsyncOpenAI, question: Question, key: str) -> ChatCompletion:
        options = self._options
        refusals: list[str] = []
        while True:
            tries = AsyncRetrying(
                stop=stop_after_attempt(self.model.max_retries + 1),
                retry=retry_if_exception(is_transient),
                wait=wait_s,
                reraise=True,
            )
            try:
                async for attempt in tries:
                    with attempt:
                        completion = await self._once(client, question, options.parameters(question))
            except (OpenAIError, TimeoutError, UnreadableReply) as error:
                reduced = None
                if isinstance(error, APIStatusError):
                    reduced = options.without(
                        error.status_code, str(error), is_permanent=is_permanent(error),
                        is_label=question.label_tokens is not None,
                    )  # fmt: skip
                elif isinstance(error, UnreadableReply) and str(error).startswith("{"):
                    reduced = options.without(None, str(error))
                if reduced is None:
                    count = tries.statistics.get("attempt_number", 1)
                    raise explain(self.model, error, tries=count, key=key) from error
                refusals.append(excerpt(str(error), key))
                options = reduced
            else:
                if refusals:
                    self._remember(options, refusals)
                return completion

    def _remember(self, options: RequestOptions, refusals: Sequence[str]) -> None:
        """Ask with these options from now on. What no options helped against was not their fault and changes none."""
        self._options = options
        _log.warning(
            "%s %r refused %s; from now on it is asked with %s. Replies are checked all the same; one that breaks a "
            "rule costs a second request",
            self.model.role, self.name, "; then ".join(refusals), options,
        )  # fmt: skip

    async def _once(self, client: AsyncOpenAI, question: Question, options: dict[str, Any]) -> ChatCompletion:
        name = self.model.model.removeprefix(ENGINE_PREFIX)
        try:
            async with asyncio.timeout(self.model.longest_wait_s):
                completion: object = await client.chat.completions.create(
                    model=name, messages=_messages(question), **options
                )
        except APITimeoutError as error:
            raise TimeoutError from error
        except ValueError as error:
            raise UnreadableReply(str(error)) from error
        if not isinstance(completion, ChatCompletion):
            raise UnreadableReply(str(completion))
        if not completion.choices or completion.choices[0].message is None:
            raise UnreadableReply(completion.model_dump_json())
        return completion

    def _answer(self, completion: ChatCompletion) -> Answer:
        choice = completion.choices[0]
        usage, (text, refusal) = completion.usage, read_message(choice.message)
        prompt_tokens, completion_tokens = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
        return Answer(
            text=text or refusal or "",
            is_cut=choice.finish_reason == "length",
            is_refusal=refusal is not None or str(choice.finish_reason).lower() in _REFUSALS,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost_usd=self.model.cost_usd(prompt_tokens, completion_tokens) if usage else None,
            tokens=_likely_tokens(choice),
        )


class _Connection:
    """The HTTP client of one event loop, open while requests are in flight, and the limit on their number."""

    def __init__(self, model: ChatModel) -> None:
        self.semaphore = asyncio.Semaphore(model.max_concurrency)
        self._model = model
        self._client: AsyncOpenAI | None = None
        self._users = 0

    @asynccontextmanager
    async def client(self, key: str) -> AsyncIterator[AsyncOpenAI]:
        """Yield the shared client. The first user opens it; the last one closes it."""
        client = self._client = self._client or _open(self._model, key)
        self._users += 1
        try:
            yield client
        finally:
            self._users -= 1
            if self._users == 0:
                self._client = None
                await client.close()


def _open(model: ChatModel, key: str) -> AsyncOpenAI:
    host = urlsplit(model.address or "").hostname
    # A proxy named in the environment cannot reach a server on this machine's loopback.
    direct = (
        DefaultAsyncHttpxClient(trust_env=False, verify=_trust()) if host in ("127.0.0.1", "localhost", "::1") else None
    )
    return AsyncOpenAI(
        api_key=key, base_url=model.address, timeout=model.longest_wait_s, max_retries=0, http_client=direct
    )


@cache
def _trust() -> ssl.SSLContext:
    """Return this machine's trust store. Loading it can take longer than a local judge's reply, so it is cached."""
    return ssl.create_default_context()


def _likely_tokens(choice: Choice) -> tuple[LikelyToken, ...]:
    content = (choice.logprobs.content if choice.logprobs else None) or ()
    return tuple(
        LikelyToken(
            text=token.token, likely=tuple((t.token, math.exp(min(t.logprob, 0.0))) for t in token.top_logprobs)
        )
        for token in content
    )


def _messages(question: Question) -> Any:
    """Return the request's messages. A repair request adds the refused reply and the complaint about it."""
    messages = [{"role": "system", "content": question.system}, {"role": "user", "content": question.user}]
    if question.refused is not None:
        reply, complaint = question.refused
        messages += [{"role": "assistant", "content": reply or "(no reply)"}, {"role": "user", "content": complaint}]
    return messages
