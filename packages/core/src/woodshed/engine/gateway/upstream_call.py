"""One call through vLLM: sent with the newest weights, sent again if a server dies, answered and recorded once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import aiohttp
import msgspec

from woodshed.engine.gateway.asgi import Headers, Reply, error_body
from woodshed.engine.gateway.chat_request import ChatRequest
from woodshed.engine.gateway.conversations import History
from woodshed.engine.gateway.counters import FAILED_CALLS
from woodshed.engine.gateway.upstream import Replica, Upstream
from woodshed.engine.gateway.vllm_response import DONE, StreamSplitter, broken_call, refusal, rename, split_reply
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.server_loras import LoraVersion
from woodshed.errors import EngineError
from woodshed.types import Completion, Failure, ForkReason

_MAX_ATTEMPTS = 4
"""How often a call is sent while servers keep dying and restarting."""
_MAX_FAILURES_ALIVE = 2
"""How often a call is sent while servers stay alive but fail."""
_PATH = "/v1/chat/completions"
_JSON = {"content-type": "application/json"}
# The names in `patches.prompt_tokens`, which cannot be imported where vLLM is not installed.
_HISTORY, _CONTINUED, _FORK = "woodshed_history", "x-woodshed-continued", "x-woodshed-fork"


class UpstreamError(Exception):
    """vLLM failed during a call: it answered 5xx, broke off, or sent an error in the stream."""


class BrokenCall(Exception):
    """vLLM answered in full, and not with the tool call that was demanded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of a call, to be recorded."""

    prompt_ids: list[int] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    continued_from: str | None = None
    fork: ForkReason | None = None
    error: Failure | None = None


@dataclass(kw_only=True, slots=True)
class Exchange:
    """One request, sent to vLLM and answered to the client."""

    request: ChatRequest
    upstream: Upstream
    reply: Reply
    headers: Headers
    record: Callable[[Outcome], None] | None = None
    """Called with the outcome before the last byte of the answer is sent; None for a call that is not recorded."""
    history: History | None = None
    """How the call is related to earlier ones; None for a call that is not recorded."""
    session: str | None = None
    """Whose call it is, which keeps it on one replica; None for a call that belongs to no rollout."""
    stopped_because: Callable[[], str] = lambda: "the client closed the connection"
    _replica: Replica | None = None
    """The server that it was sent to last."""
    _partial: tuple[StreamSplitter, int, aiohttp.ClientResponse] | None = None
    """Of a stream that has begun: what was received, the version of the weights, and vLLM's response."""

    async def run(self) -> None:
        """Answer the client; every failure is answered and recorded too."""
        try:
            await self._send_until_answered(self._stream if self.request.stream else self._whole)
        except asyncio.CancelledError:
            self._record_error("CallCancelled", self.stopped_because())
            raise
        except EngineError as error:
            await self._fail(503, str(error), "EngineError")
        except BrokenCall as error:
            await self._fail(502, f"the model's answer cannot be passed on: {error}", "BrokenCall")
        except (UpstreamError, aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
            assert self._replica is not None
            log = self._replica.server.log.name
            await self._fail(
                502, f"vLLM failed to answer this call ({error}); see logs/{log} of the engine", "UpstreamError"
            )

    async def _send_until_answered(self, attempt: Callable[[Replica], Awaitable[None]]) -> None:
        """Run `attempt` again where its server dies, on another replica if there is one, else after the restart.

        A call that servers fail which stay alive is sent a second time, and no more.
        """
        failed: list[tuple[ModelServer, int]] = []
        for _ in range(_MAX_ATTEMPTS):
            self._partial = None
            self._replica = replica = await self.upstream.choose(self.session, [server for server, _ in failed])
            failed.append((replica.server, replica.server.generation))
            try:
                return await attempt(replica)
            except (UpstreamError, aiohttp.ClientError, OSError, msgspec.DecodeError):
                if self.reply.has_begun:
                    raise
                is_last = _alive(failed) >= _MAX_FAILURES_ALIVE
                if is_last or not self.upstream.has_another([server for server, _ in failed]):
                    await replica.server.has_died(failed[-1][1])
                if _alive(failed) >= _MAX_FAILURES_ALIVE:
                    raise
        raise EngineError(f"vLLM for {self.upstream.model.name!r} died {_MAX_ATTEMPTS} times during this call")

    async def _whole(self, replica: Replica) -> None:
        with replica.lease() as lora:
            async with self._send(lora, replica.server) as response:
                raw, status = await response.read(), response.status
        if status != 200:
            await self._pass_on_refusal(status, raw)
            return
        replica.count_cached(raw)
        if self.record is not None:
            raw, prompt_ids, completions = split_reply(raw, self.request, lora.version)
            if (problem := broken_call(self.request, completions)) is not None:
                raise BrokenCall(problem)
            self._record(response, prompt_ids, completions)
        elif lora.name != self.request.model:
            raw = rename(raw, self.request.model)
        await self.reply.send_json(200, raw, self._headers_with_version(lora))

    async def _stream(self, replica: Replica) -> None:
        with replica.lease() as lora:
            async with self._send(lora, replica.server) as response:
                if response.status == 200:
                    await self._pass_on_stream(response, lora, replica)
                else:
                    await self._pass_on_refusal(response.status, await response.read())

    async def _pass_on_stream(self, response: aiohttp.ClientResponse, lora: LoraVersion, replica: Replica) -> None:
        """Pass on the stream's events as they arrive; the first ones are held back until one has content."""
        splitter, headers, held = StreamSplitter(self.request), self._headers_with_version(lora), b""
        self._partial = (splitter, lora.version, response)
        async for data in response.content.iter_any():
            held += splitter.feed(data)
            replica.count_cached(data)
            if splitter.error is not None:
                raise UpstreamError(splitter.error)
            if held and splitter.has_content:
                await self.reply.send_event(held, headers)
                held = b""
        if not splitter.is_done:
            raise UpstreamError("the stream broke off")
        if self.record is not None:
            completions = splitter.completions(lora.version)
            if (problem := broken_call(self.request, completions)) is not None:
                raise BrokenCall(problem)
            self._record(response, splitter.prompt_ids, completions)
        await self.reply.send_event(held + DONE, headers, last=True)

    def _send(self, lora: LoraVersion, server: ModelServer) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        tokens = {} if self.record is None else {"logprobs": True, "return_token_ids": True}
        if self.record is not None and not self.request.wants_logprobs:
            # Nobody reads the tokens' texts, so `patches.sampled_logprobs` may send numbers alone.
            tokens["return_tokens_as_token_ids"] = True
        turns = () if self.history is None else self.history.turns
        history = {"kv_transfer_params": {_HISTORY: [turn.to_json() for turn in turns]}} if turns else {}
        body = msgspec.json.encode(self.request.body | tokens | history | {"model": lora.name})
        return self.upstream.http.post(server.url + _PATH, data=body, headers=_JSON | server.headers)

    async def _pass_on_refusal(self, status: int, raw: bytes) -> None:
        """Pass on vLLM's refusal of the request; raises UpstreamError where vLLM failed instead (5xx)."""
        if status >= 500:
            raise UpstreamError(raw.decode(errors="replace")[:500])
        raw = refusal(raw, self.request)
        self._record_error("BadRequestError", raw.decode(errors="replace"))
        await self.reply.send_json(status, raw, self.headers)

    async def _fail(self, status: int, message: str, kind: str) -> None:
        self.upstream.counters.add(FAILED_CALLS)
        self._record_error(kind, message)
        if self.reply.has_begun:
            event = b"data: " + error_body(message, kind="server_error", code=kind) + b"\n\n"
            await self.reply.send_event(event + DONE, {}, last=True)
        else:
            await self.reply.send_error(status, message, kind="server_error", code=kind)

    def _record_error(self, kind: str, message: str) -> None:
        if self.record is None:
            return
        error = Failure(kind=kind, message=message)
        if self._partial is None:
            self.record(Outcome(error=error))
        else:
            splitter, version, response = self._partial
            self._record(response, splitter.prompt_ids, splitter.completions(version), error)

    def _record(
        self,
        response: aiohttp.ClientResponse,
        prompt_ids: list[int],
        completions: list[Completion],
        error: Failure | None = None,
    ) -> None:
        """Record what an answer contained, and which earlier call its prompt continues."""
        assert self.record is not None
        continued_from = fork = None
        if self.history is not None:
            continued_from, fork = self.history.outcome(
                prompt_ids, response.headers.get(_CONTINUED), response.headers.get(_FORK)
            )
        self.record(
            Outcome(
                prompt_ids=prompt_ids, completions=completions, continued_from=continued_from, fork=fork, error=error
            )
        )

    def _headers_with_version(self, lora: LoraVersion) -> Headers:
        headers = self.headers | {"x-woodshed-weight-version": str(lora.version)}
        if self._replica is not None and len(self.upstream.replicas) > 1:
            headers["x-woodshed-replica"] = str(self._replica.server.replica)
        return headers


def _alive(failed: Sequence[tuple[ModelServer, int]]) -> int:
    """Return how many of the starts that failed a call are alive, as far as is known."""
    return sum(server.is_alive_since(generation) for server, generation in failed)
