"""One call on its way through vLLM: sent with the newest weights, sent again where a server died, answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import aiohttp
import msgspec

from woodshed.engine.gateway.asgi import Headers, Reply, error_body
from woodshed.engine.gateway.chat_request import ChatRequest
from woodshed.engine.gateway.conversations import History
from woodshed.engine.gateway.vllm_response import DONE, StreamSplitter, rename, split_reply
from woodshed.engine.vllm.lora_slots import Adapter, AdapterSlots
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.errors import EngineError
from woodshed.types import Completion, Failure, ForkReason

_TRIES = 4
_TRIES_ALIVE = 2
_PATH = "/v1/chat/completions"
_JSON = {"content-type": "application/json"}
# `prompt_tokens` says these within vLLM; its names cannot be imported where vLLM is not.
_HISTORY, _CONTINUED, _FORK = "woodshed_history", "x-woodshed-continued", "x-woodshed-fork"


class UpstreamError(Exception):
    """vLLM failed in the middle of a call: it answered 5xx, broke off, or sent something that is no answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a call, for the record."""

    prompt_ids: list[int] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    continued_from: str | None = None
    fork: ForkReason | None = None
    error: Failure | None = None


@dataclass(kw_only=True, slots=True)
class Upstream:
    """Where a call goes: one vLLM server, and the adapters of the policy it serves, if it serves one."""

    server: ModelServer
    slots: AdapterSlots | None
    http: aiohttp.ClientSession
    failed_calls: int = 0
    """Answers of 500 and above that were given to clients."""

    def lease(self) -> AbstractContextManager[Adapter]:
        """Return the newest weights, held while a call uses them."""
        if self.slots is not None:
            return self.slots.lease()
        return nullcontext(Adapter(name=self.server.model.name, version=0, path=None))


@dataclass(kw_only=True, slots=True)
class Exchange:
    """One request and where its answer goes."""

    request: ChatRequest
    upstream: Upstream
    reply: Reply
    headers: Headers
    keep: Callable[[Outcome], None] | None = None
    """Told the outcome before the last byte of the answer is sent; None for a call that is not recorded."""
    history: History | None = None
    """What the call goes on from; None for a call that is not recorded."""
    stopped_because: Callable[[], str] = lambda: "the client closed the connection"
    _heard: tuple[StreamSplitter, int, aiohttp.ClientResponse] | None = None

    async def run(self) -> None:
        """Answer the client; every failure becomes an answer and a record."""
        try:
            await self._persist(self._stream if self.request.stream else self._whole)
        except asyncio.CancelledError:
            self._keep_error("CallCancelled", self.stopped_because())
            raise
        except EngineError as error:
            await self._fail(503, str(error), "EngineError")
        except (UpstreamError, aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
            log = self.upstream.server.log.name
            await self._fail(
                502, f"vLLM failed to answer this call ({error}); see logs/{log} of the engine", "UpstreamError"
            )

    async def _persist(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try until answered: again after each restart, and once more with a server that lives."""
        server, alive = self.upstream.server, 0
        for _ in range(_TRIES):
            await server.ready()
            generation, self._heard = server.generation, None
            try:
                return await attempt()
            except (UpstreamError, aiohttp.ClientError, OSError, msgspec.DecodeError):
                if self.reply.has_begun:
                    raise
                alive += 0 if await server.ready_after(generation) else 1
                if alive == _TRIES_ALIVE:
                    raise
        raise EngineError(f"vLLM for {server.model.name!r} died {_TRIES} times during this call")

    async def _whole(self) -> None:
        with self.upstream.lease() as adapter:
            async with self._send(adapter) as answer:
                raw, status = await answer.read(), answer.status
        if status != 200:
            await self._refused(status, raw)
            return
        if self.keep is not None:
            raw, prompt_ids, completions = split_reply(raw, self.request, adapter.version)
            self._keep(answer, prompt_ids, completions)
        elif adapter.name != self.request.model:
            raw = rename(raw, self.request.model)
        await self.reply.whole(200, raw, self._versioned(adapter))

    async def _stream(self) -> None:
        with self.upstream.lease() as adapter:
            async with self._send(adapter) as answer:
                if answer.status == 200:
                    await self._pass_on(answer, adapter)
                else:
                    await self._refused(answer.status, await answer.read())

    async def _pass_on(self, answer: aiohttp.ClientResponse, adapter: Adapter) -> None:
        """Send the stream's events on as they come; the first are held back until one says something."""
        splitter, headers, held = StreamSplitter(self.request), self._versioned(adapter), b""
        self._heard = (splitter, adapter.version, answer)
        async for data in answer.content.iter_any():
            held += splitter.feed(data)
            if splitter.error is not None:
                raise UpstreamError(splitter.error)
            if held and splitter.said_something:
                await self.reply.stream(held, headers)
                held = b""
        if not splitter.is_done:
            raise UpstreamError("the stream broke off")
        if self.keep is not None:
            self._keep(answer, splitter.prompt_ids, splitter.completions(adapter.version))
        await self.reply.stream(held + DONE, headers, last=True)

    def _send(self, adapter: Adapter) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        tokens = {} if self.keep is None else {"logprobs": True, "return_token_ids": True}
        if self.keep is not None and not self.request.wants_logprobs:
            # Nobody will read the tokens' texts: `sampled_logprobs` then sends numbers alone.
            tokens["return_tokens_as_token_ids"] = True
        turns = () if self.history is None else self.history.turns
        past = {"kv_transfer_params": {_HISTORY: [turn.for_engine() for turn in turns]}} if turns else {}
        body = msgspec.json.encode(self.request.body | tokens | past | {"model": adapter.name})
        return self.upstream.http.post(self.upstream.server.url + _PATH, data=body, headers=_JSON)

    async def _refused(self, status: int, raw: bytes) -> None:
        """Pass on that vLLM refuses this request; that it fails is another matter."""
        if status >= 500:
            raise UpstreamError(raw.decode(errors="replace")[:500])
        self._keep_error("BadRequestError", raw.decode(errors="replace"))
        await self.reply.whole(status, raw, self.headers)

    async def _fail(self, status: int, message: str, kind: str) -> None:
        self.upstream.failed_calls += 1
        self._keep_error(kind, message)
        if self.reply.has_begun:
            event = b"data: " + error_body(message, kind="server_error", code=kind) + b"\n\n"
            await self.reply.stream(event + DONE, {}, last=True)
        else:
            await self.reply.error(status, message, kind="server_error", code=kind)

    def _keep_error(self, kind: str, message: str) -> None:
        if self.keep is None:
            return
        error = Failure(kind=kind, message=message)
        if self._heard is None:
            self.keep(Outcome(error=error))
        else:
            splitter, version, answer = self._heard
            self._keep(answer, splitter.prompt_ids, splitter.completions(version), error)

    def _keep(
        self,
        answer: aiohttp.ClientResponse,
        prompt_ids: list[int],
        completions: list[Completion],
        error: Failure | None = None,
    ) -> None:
        """Hand over what an answer held, and what its prompt has become of."""
        assert self.keep is not None
        continued_from = fork = None
        if self.history is not None:
            continued_from, fork = self.history.outcome(
                prompt_ids, answer.headers.get(_CONTINUED), answer.headers.get(_FORK)
            )
        self.keep(
            Outcome(
                prompt_ids=prompt_ids, completions=completions, continued_from=continued_from, fork=fork, error=error
            )
        )

    def _versioned(self, adapter: Adapter) -> Headers:
        return self.headers | {"x-woodshed-weight-version": str(adapter.version)}
