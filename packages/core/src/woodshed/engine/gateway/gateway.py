"""The OpenAI-compatible API: whose call it is, whether it may pass, and which model it goes to."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from woodshed.engine.gateway.asgi import Headers, Receive, Reply, Scope, Send, header, read_body, until_disconnect
from woodshed.engine.gateway.chat_request import (
    BadRequest,
    ChatRequest,
    parse_request,
    sampling_of,
    with_sampling,
)
from woodshed.engine.gateway.messages import to_messages, to_tools
from woodshed.engine.gateway.sessions import SECRET_PREFIX, InFlight, Session, Sessions
from woodshed.engine.gateway.upstream import Upstream
from woodshed.engine.gateway.upstream_call import Exchange, Outcome
from woodshed.types import TokenCall

_log = logging.getLogger("woodshed.gateway")

CALL_ID = "x-woodshed-call-id"
_RETRY_AFTER_S = "1"
_REPEATED = "the client repeated the call"
# OpenAI's SDKs retry a 409 unless this header tells them not to.
_NO_RETRY = {"x-should-retry": "false"}


class Gateway:
    """Answers `/v1/chat/completions` and `/v1/models`.

    A call with a session's secret is tracked: it goes to that session's policy, whatever model it names, and is
    recorded. A call with the engine's own key (or, on loopback without a key, any other) is untracked: it goes to the
    model it names, such as a judge.
    """

    def __init__(self, upstreams: Mapping[str, Upstream], sessions: Sessions, api_key: str | None) -> None:
        """Serve `upstreams` by name."""
        self.paused = False
        self._upstreams = upstreams
        self._sessions = sessions
        self._api_key = api_key
        self._said: set[tuple[str, str]] = set()

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one chat completion call."""
        reply, bearer = Reply(send), _bearer(scope)
        session = self._sessions.find(bearer)
        if session is None and not self.allows(bearer):
            await _refuse_key(reply, bearer)  # before anything of the body is read
            return
        raw = await read_body(receive)
        if raw is None:
            return
        if session is not None:
            await self._tracked(session, raw, scope, receive, reply)
        else:
            await self._untracked(raw, receive, reply)

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """List the models that this caller can name."""
        reply, bearer = Reply(send), _bearer(scope)
        session = self._sessions.find(bearer)
        if session is None and not self.allows(bearer):
            await _refuse_key(reply, bearer)
            return
        names = list(self._upstreams) if session is None else [session.policy]
        cards = [{"id": name, "object": "model", "created": 0, "owned_by": "woodshed"} for name in names]
        await reply.send_json(200, msgspec.json.encode({"object": "list", "data": cards}))

    def allows(self, bearer: str) -> bool:
        """Whether a bearer token that is not an open session's secret may use this engine."""
        if self._api_key is not None:
            return hmac.compare_digest(bearer.encode(), self._api_key.encode())
        return not bearer.startswith(SECRET_PREFIX)

    async def _tracked(self, session: Session, raw: bytes, scope: Scope, receive: Receive, reply: Reply) -> None:
        if session.is_sealed:
            self._sessions.refuse(session)
            await _refuse_sealed(session, reply)
            return
        if session.lost is not None:
            await reply.send_error(409, session.lost, kind="conflict_error", code="policy_lost", headers=_NO_RETRY)
            return
        request = await self._admit(raw, reply)
        if request is None:
            return
        self._say_dropped(session.run_id or session.policy, request)
        request = with_sampling(request, session.sampling)
        call_id, retries = self._sessions.receive(session, header(scope, CALL_ID.encode()), raw, _sdk_retries(scope))
        await _cancel_first_attempt(session, call_id)
        await self._run_tracked(session, request, raw, receive, reply, call_id=call_id, retries=retries)

    async def _run_tracked(
        self,
        session: Session,
        request: ChatRequest,
        raw: bytes,
        receive: Receive,
        reply: Reply,
        *,
        call_id: str,
        retries: int,
    ) -> None:
        """Answer a call of an open session, and record it."""
        started_s, began = time.time(), time.monotonic()
        messages, tools = to_messages(request.body["messages"]), to_tools(request.body.get("tools"))
        template_options = request.body.get("chat_template_kwargs", {})
        history = self._sessions.history(session, request.body["messages"], tools, template_options, messages)
        request = replace(request, body=request.body | {"messages": history.messages})

        def record(outcome: Outcome) -> None:
            call = TokenCall(
                call_id=call_id,
                started_s=started_s,
                latency_s=time.monotonic() - began,
                messages=tuple(messages),
                tools=tuple(tools),
                template_options=template_options,
                continued_from=outcome.continued_from,
                fork=outcome.fork,
                prompt_ids=tuple(outcome.prompt_ids),
                completions=tuple(outcome.completions),
                sampling=sampling_of(request.body),
                constrained=request.constrained,
                retries=retries,
                error=outcome.error,
            )
            self._sessions.record(session, call, history)
            if outcome.error is not None and in_flight.stopped_because != _REPEATED:
                self._sessions.mark_unanswered(session, call_id, raw)

        exchange = self._exchange(request, session.policy, reply, {CALL_ID: call_id})
        exchange.record, exchange.history, exchange.session = record, history, session.rollout_id
        in_flight = InFlight(task=asyncio.ensure_future(exchange.run()))
        exchange.stopped_because = lambda: in_flight.stopped_because
        session.in_flight[call_id] = in_flight
        try:
            await _run_while_connected(in_flight.task, receive)
        finally:
            if session.in_flight.get(call_id) is in_flight:
                del session.in_flight[call_id]
        if session.is_sealed and not reply.has_begun:
            await _refuse_sealed(session, reply)

    async def _untracked(self, raw: bytes, receive: Receive, reply: Reply) -> None:
        request = await self._admit(raw, reply)
        if request is None:
            return
        if request.model not in self._upstreams:
            await reply.send_error(
                404,
                f"there is no model {request.model!r}; this engine serves {sorted(self._upstreams)}",
                param="model",
                code="model_not_found",
            )
            return
        self._say_dropped(request.model, request)
        exchange = self._exchange(request, request.model, reply, {})
        await _run_while_connected(asyncio.ensure_future(exchange.run()), receive)

    def _exchange(self, request: ChatRequest, model: str, reply: Reply, headers: Headers) -> Exchange:
        return Exchange(request=request, upstream=self._upstreams[model], reply=reply, headers=headers)

    def _say_dropped(self, run: str, request: ChatRequest) -> None:
        """Log settings that have no effect: once for each and each run, or model where there is no run."""
        for name, why in request.dropped.items():
            if (run, name) not in self._said:
                self._said.add((run, name))
                _log.warning("%r in requests of %r has no effect here: %s", name, run, why)

    async def _admit(self, raw: bytes, reply: Reply) -> ChatRequest | None:
        if self.paused:
            message = f"the engine is paused; try again in {_RETRY_AFTER_S} s"
            headers = {"retry-after": _RETRY_AFTER_S}
            await reply.send_error(429, message, kind="rate_limit_error", code="engine_paused", headers=headers)
            return None
        try:
            return parse_request(raw)
        except BadRequest as error:
            await reply.send_error(400, error.message, param=error.param, code="request_refused")
            return None


async def _cancel_first_attempt(session: Session, call_id: str) -> None:
    """Cancel a call that the client has repeated and no longer waits for; only the new attempt is answered."""
    first_attempt = session.in_flight.get(call_id)
    if first_attempt is not None:
        first_attempt.stopped_because = _REPEATED
        first_attempt.task.cancel()
        await asyncio.wait([first_attempt.task])


async def _run_while_connected(task: asyncio.Task[None], receive: Receive) -> None:
    """Wait for an answer, and cancel it if the client disconnects."""
    disconnected = asyncio.ensure_future(until_disconnect(receive))
    disconnected.add_done_callback(lambda _: task.cancel())
    try:
        await asyncio.wait((task,))
    finally:
        disconnected.cancel()
        if not task.done():
            task.cancel()
    if not task.cancelled():
        task.result()


async def _refuse_key(reply: Reply, bearer: str) -> None:
    reason = (
        "this session is not known here" if bearer.startswith(SECRET_PREFIX) else "the API key is not this engine's"
    )
    await reply.send_error(
        401, f"{reason}; send 'Authorization: Bearer <secret>'", kind="authentication_error", code="invalid_api_key"
    )


async def _refuse_sealed(session: Session, reply: Reply) -> None:
    message = f"the session of rollout {session.rollout_id!r} is sealed; this call came too late and is not recorded"
    await reply.send_error(409, message, kind="conflict_error", code="session_sealed", headers=_NO_RETRY)


def _bearer(scope: Scope) -> str:
    kind, _, bearer = (header(scope, b"authorization") or "").partition(" ")
    return bearer.strip() if kind.lower() == "bearer" else ""


def _sdk_retries(scope: Scope) -> int:
    count = header(scope, b"x-stainless-retry-count") or "0"
    return int(count) if count.isascii() and count.isdigit() else 0
