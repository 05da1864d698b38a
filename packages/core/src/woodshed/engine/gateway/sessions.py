"""Open rollouts: whose secret is whose, which calls are in flight, what was recorded."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from woodshed.engine.gateway.conversations import Conversations, History
from woodshed.engine.gateway.store import Store
from woodshed.errors import EngineError, PolicyLost
from woodshed.types import OpenSession, SealedSession, TokenCall, ToolSpec

_ABANDONED_AFTER_S = 60.0
PREFIX = "woodshed-session-"
"""What every session's secret starts with, so that an unknown one is told from an ordinary key."""


@dataclass(kw_only=True, slots=True)
class InFlight:
    """A call that is being answered, and why it was stopped, if it was."""

    task: asyncio.Task[None]
    stopped_because: str = "the client closed the connection"


@dataclass(kw_only=True, slots=True)
class Session:
    """The engine's side of one rollout."""

    rollout_id: str
    policy: str
    sampling: dict[str, Any]
    run_id: str | None = None
    is_sealed: bool = False
    lost: str | None = None
    """What to say of it once another run has taken the policy: its calls would be answered by that run's weights."""
    in_flight: dict[str, InFlight] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    """Call id → how often it was received."""
    used_at: float = field(default_factory=time.monotonic)
    """When it was opened or last asked for a call (monotonic clock)."""
    conversations: Conversations | None = None
    """What was sampled, to be gone on from; None before the first call and after the seal."""
    unanswered: dict[int, list[str]] = field(default_factory=dict)
    """Hash of a request's body → ids of its calls that failed or whose client has gone, oldest first, for SDKs that
    retry without naming the call."""


class Sessions:
    """All sessions of this engine, found by secret or by rollout."""

    def __init__(self, store: Store) -> None:
        """Find the sessions of an earlier life again: their secrets stay valid, their calls recorded."""
        self._store = store
        self._by_secret: dict[str, Session] = {}
        self._by_rollout: dict[str, tuple[str, Session]] = {}
        for row in store.sessions():
            session = Session(rollout_id=row.rollout_id, policy=row.policy, sampling=row.sampling, is_sealed=row.sealed)
            self._keep(row.secret, session)

    def find(self, secret: str) -> Session | None:
        """Return the session that a bearer secret speaks for, sealed or not."""
        return self._by_secret.get(secret)

    async def open(self, request: OpenSession) -> str:
        """Open a session and return its secret; an unsealed one of the same rollout is stopped and forgotten."""
        secret = PREFIX + secrets.token_urlsafe(32)
        former = self._by_rollout.get(request.rollout_id)
        if former is not None and not former[1].is_sealed:
            await self._stop(former[1], "the rollout was started again")
        self._store.open_session(request, secret)
        if former is not None:
            self._by_secret.pop(former[0], None)
        self._keep(
            secret,
            Session(
                rollout_id=request.rollout_id,
                policy=request.policy,
                sampling=dict(request.sampling),
                run_id=request.run_id,
            ),
        )
        return secret

    async def seal(self, rollout_id: str) -> SealedSession:
        """Close a session; calls in flight are cancelled and recorded as such.

        Raises:
            EngineError: there is none.
            PolicyLost: another run has taken its policy meanwhile.
        """
        found = self._by_rollout.get(rollout_id)
        if found is None:
            raise EngineError(
                f"there is no session for rollout {rollout_id!r} in this engine; was it opened elsewhere?"
            )
        session = found[1]
        if session.lost is not None:
            raise PolicyLost(session.lost)
        session.is_sealed = True
        await self._stop(session, "the session was sealed")
        self._store.seal(rollout_id)
        session.attempts.clear()
        session.unanswered.clear()
        session.conversations = None
        return self._store.sealed(rollout_id)

    def import_session(self, policy: str, session: SealedSession) -> None:
        """Keep calls that were recorded elsewhere as a sealed session; one that is known already stays as it is."""
        if session.rollout_id not in self._by_rollout:
            self._store.import_session(policy, PREFIX + secrets.token_urlsafe(32), session)

    def sealed(self, rollout_id: str) -> SealedSession:
        """Return a sealed session's calls."""
        return self._store.sealed(rollout_id)

    def unsealed(self, policy: str) -> int:
        """Return how many sessions of a policy are open and in use; one left behind by a killed client is neither."""
        since = time.monotonic() - _ABANDONED_AFTER_S
        return sum(
            s.policy == policy and not s.is_sealed and (bool(s.in_flight) or s.used_at > since)
            for _, s in self._by_rollout.values()
        )

    def lose(self, policy: str, run_id: str, why: str) -> None:
        """Refuse what is left open of a run whose policy another one takes."""
        for _, session in self._by_rollout.values():
            if session.policy == policy and session.run_id == run_id and not session.is_sealed:
                session.lost = why

    def refuse(self, session: Session) -> None:
        """Count a call that came after the seal; it never reaches the trace."""
        self._store.count_late(session.rollout_id)

    def history(
        self,
        session: Session,
        messages: list[dict[str, Any]],
        tools: Sequence[ToolSpec],
        template_options: Mapping[str, Any],
    ) -> History:
        """Return what a call of a session goes on from."""
        return self._conversations(session).history(messages, tools, template_options)

    def record(self, session: Session, call: TokenCall, history: History) -> None:
        """Keep a call of a session; `history` is what it went on from."""
        self._conversations(session).add(call, history)
        self._store.record(session.rollout_id, call.call_id, call.started_s, call.model_dump_json().encode())

    def _conversations(self, session: Session) -> Conversations:
        """Return what a session has sampled; from disk where it was begun in an earlier life of the engine."""
        if session.conversations is None:
            session.conversations = Conversations.of(self._store.calls(session.rollout_id))
        return session.conversations

    def receive(self, session: Session, call_id: str | None, body: bytes, sdk_retries: int) -> tuple[str, int]:
        """Return the id of the call that a request is part of, and how often it was repeated.

        A request is part of an earlier call when it names the same call id, or when it names none, the SDK says that it
        repeats a request, and one with the same body was left unanswered. A call that somebody still waits for, or has
        the answer of, is another agent's with the same prompt.
        """
        session.used_at, left = time.monotonic(), session.unanswered.get(hash(body), [])
        if call_id is None:
            call_id = left[0] if sdk_retries and left else f"call-{secrets.token_hex(12)}"
        if call_id in left:
            left.remove(call_id)
        received = session.attempts.get(call_id, 0)
        session.attempts[call_id] = received + 1
        return call_id, max(received, sdk_retries)

    def left(self, session: Session, call_id: str, body: bytes) -> None:
        """Note that a call failed or that its client has gone, so that a retry may be the same call."""
        session.unanswered.setdefault(hash(body), []).append(call_id)

    async def _stop(self, session: Session, why: str) -> None:
        """Cancel a session's calls in flight and wait until each has been recorded."""
        stopped = tuple(session.in_flight.values())
        for call in stopped:
            call.stopped_because = why
            call.task.cancel()
        await asyncio.gather(*(call.task for call in stopped), return_exceptions=True)

    def _keep(self, secret: str, session: Session) -> None:
        self._by_secret[secret] = session
        self._by_rollout[session.rollout_id] = (secret, session)
