"""Sessions, the engine's side of a rollout: their secrets, calls in flight, retries and records."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from woodshed.engine.gateway.conversations import Conversations, History
from woodshed.engine.gateway.store import Store, digest_of
from woodshed.errors import EngineError, PolicyLost
from woodshed.types import Message, OpenSession, SealedSession, TokenCall, ToolSpec

ABANDONED_AFTER_S = 60.0
"""After how long without a call an open session counts as one whose client was killed."""
SECRET_PREFIX = "woodshed-session-"
"""What every session's secret starts with, which distinguishes an unknown secret from an API key."""


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
    """Why its calls are refused, once another run has taken the policy and they would be answered by its weights."""
    in_flight: dict[str, InFlight] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    """Call id → how often it was received."""
    used_s: float = field(default_factory=time.monotonic)
    """When it was opened or last received a call (seconds of the monotonic clock); -inf once its run left it behind."""
    conversations: Conversations | None = None
    """The turns sampled so far, which calls may continue; None before the first call and after the seal."""
    unanswered: dict[int, list[str]] = field(default_factory=dict)
    """Hash of a request's body → ids of its calls that failed or whose client disconnected, oldest first. An SDK that
    retries does not name the call."""


class Sessions:
    """All sessions of this engine, looked up by secret or by rollout."""

    def __init__(self, store: Store) -> None:
        """Restore the stored sessions: their secrets stay valid and their calls recorded."""
        self._store = store
        # By the secret's digest: how long a look-up takes tells nothing of a secret.
        self._by_digest: dict[str, Session] = {}
        self._by_rollout: dict[str, tuple[str, Session]] = {}
        self.on_seal: Callable[[Session], None] = lambda _: None
        """Called with each session that is sealed."""
        for row in store.sessions():
            session = Session(
                rollout_id=row.rollout_id,
                policy=row.policy,
                sampling=row.sampling,
                run_id=row.run_id,
                is_sealed=row.sealed,
            )
            self._add(row.digest, session)

    def find(self, secret: str) -> Session | None:
        """Return the session with a bearer secret, sealed or not; None where there is none."""
        return self._by_digest.get(digest_of(secret))

    async def open(self, request: OpenSession) -> str:
        """Open a session and return its secret; an unsealed one of the same rollout is deleted."""
        secret = SECRET_PREFIX + secrets.token_urlsafe(32)
        old_digest, old_session = self._by_rollout.get(request.rollout_id, (None, None))
        if old_session is not None and not old_session.is_sealed:
            await self._stop(old_session, "the rollout was started again")
        self._store.open_session(request, secret)
        if old_digest is not None:
            self._by_digest.pop(old_digest, None)
        self._add(
            digest_of(secret),
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
            EngineError: There is no such session.
            PolicyLost: Another run has taken its policy.
        """
        _, session = self._by_rollout.get(rollout_id, (None, None))
        if session is None:
            raise EngineError(
                f"there is no session for rollout {rollout_id!r} in this engine; was it opened elsewhere?"
            )
        if session.lost is not None:
            raise PolicyLost(session.lost)
        session.is_sealed = True
        await self._stop(session, "the session was sealed")
        self._store.seal(rollout_id)
        session.attempts.clear()
        session.unanswered.clear()
        session.conversations = None
        self.on_seal(session)
        return self._store.sealed(rollout_id)

    def import_session(self, policy: str, session: SealedSession) -> None:
        """Store calls that were recorded elsewhere as a sealed session; a stored session stays as it is."""
        if session.rollout_id not in self._by_rollout:
            self._store.import_session(policy, SECRET_PREFIX + secrets.token_urlsafe(32), session)

    def sealed(self, rollout_id: str) -> SealedSession:
        """Return a sealed session's calls."""
        return self._store.sealed(rollout_id)

    def unsealed(self, policy: str) -> int:
        """Return how many sessions of a policy are open and in use; one whose client was killed is not in use."""
        since = time.monotonic() - ABANDONED_AFTER_S
        return sum(
            s.policy == policy and not s.is_sealed and (bool(s.in_flight) or s.used_s > since)
            for _, s in self._by_rollout.values()
        )

    def abandon(self, policy: str, run_id: str) -> None:
        """Count a run's open sessions as not in use until their next call: the run was started again without them."""
        for _, session in self._by_rollout.values():
            if (session.policy, session.run_id) == (policy, run_id):
                session.used_s = -math.inf

    def lose(self, policy: str, holder: str, why: Callable[[str], str]) -> None:
        """Refuse further calls of every other run's open sessions, because `holder` has the policy now.

        Args:
            policy: The policy.
            holder: The run that has it.
            why: The answer to those calls, by the run that they belong to.
        """
        for _, session in self._by_rollout.values():
            if session.policy == policy and session.run_id not in (None, holder) and not session.is_sealed:
                session.lost = why(session.run_id)

    def refuse(self, session: Session) -> None:
        """Count a call that came after the seal; it is not recorded."""
        self._store.count_late(session.rollout_id)

    def history(
        self,
        session: Session,
        messages: list[dict[str, Any]],
        tools: Sequence[ToolSpec],
        template_options: Mapping[str, Any],
        own: Sequence[Message] | None = None,
    ) -> History:
        """Return how a call is related to the session's earlier ones; `own` are its messages as woodshed's."""
        return self._conversations(session).history(messages, tools, template_options, own)

    def record(self, session: Session, call: TokenCall, history: History) -> None:
        """Record a call of a session; `history` is what `history()` returned for it."""
        self._conversations(session).add(call, history)
        self._store.record(session.rollout_id, call.call_id, call.started_s, call.model_dump_json())

    def _conversations(self, session: Session) -> Conversations:
        """Return a session's sampled turns; read from disk if the engine was restarted since."""
        if session.conversations is None:
            session.conversations = Conversations.of(self._store.calls(session.rollout_id))
        return session.conversations

    def receive(self, session: Session, call_id: str | None, body: bytes, sdk_retries: int) -> tuple[str, int]:
        """Return the id of the call that a request is part of, and how often it was repeated.

        A request repeats an earlier call if it names the same call id. Without a call id it does if the SDK says that
        it is a retry and a call with the same body was left unanswered. Any other call with the same body is still
        waited for or was answered, so it is another agent's with the same prompt.

        Args:
            session: The session of the request.
            call_id: The call id that the request names, if any.
            body: The request's body.
            sdk_retries: How often the SDK says that it has repeated the request.
        """
        session.used_s, unanswered = time.monotonic(), session.unanswered.get(hash(body), [])
        if call_id is None:
            call_id = unanswered[0] if sdk_retries and unanswered else f"call-{secrets.token_hex(12)}"
        if call_id in unanswered:
            unanswered.remove(call_id)
        received = session.attempts.get(call_id, 0)
        session.attempts[call_id] = received + 1
        return call_id, max(received, sdk_retries)

    def mark_unanswered(self, session: Session, call_id: str, body: bytes) -> None:
        """Remember that a call failed or its client disconnected, so that a retry is recognised as the same call."""
        session.unanswered.setdefault(hash(body), []).append(call_id)

    async def _stop(self, session: Session, why: str) -> None:
        """Cancel a session's calls in flight and wait until each has been recorded."""
        stopped = tuple(session.in_flight.values())
        for call in stopped:
            call.stopped_because = why
            call.task.cancel()
        await asyncio.gather(*(call.task for call in stopped), return_exceptions=True)

    def _add(self, digest: str, session: Session) -> None:
        self._by_digest[digest] = session
        self._by_rollout[session.rollout_id] = (digest, session)
