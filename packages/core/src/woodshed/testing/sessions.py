"""The scripted engine's memory: requests seen, sessions, and the calls each one recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from woodshed.capture import new_id
from woodshed.errors import ConfigError
from woodshed.testing.replies import Reply
from woodshed.testing.tokens import prompt_ids, to_message, to_tool, turn_ids
from woodshed.types import Completion, Failure, Message, SealedSession, TokenCall

SAMPLING = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One request as it came over the wire."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    """Header names in lower case."""
    call_id: str
    rollout_id: str | None
    """None for a call with no session's secret."""


@dataclass
class Session:
    """One rollout's side of the engine."""

    rollout_id: str
    calls: dict[str, TokenCall] = field(default_factory=dict)
    sealed: bool = False
    late_calls: int = 0


class Sessions:
    """All sessions of one scripted engine; safe to use from its server's threads."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._by_secret: dict[str, Session] = {}
        self._seen: list[Seen] = []

    def open(self, rollout_id: str) -> str:
        """Open a session and return its secret."""
        secret = f"scripted-{new_id()}"
        with self._lock:
            self._by_secret[secret] = Session(rollout_id)
        return secret

    def seal(self, rollout_id: str) -> SealedSession:
        """Close a session; sealing again returns the same calls."""
        with self._lock:
            for session in self._by_secret.values():
                if session.rollout_id == rollout_id:
                    session.sealed = True
                    calls = sorted(session.calls.values(), key=lambda call: call.started_s)
                    return SealedSession(rollout_id=rollout_id, calls=tuple(calls), late_calls=session.late_calls)
        raise ConfigError(f"no session of rollout {rollout_id!r} was opened on this scripted engine; use `open` first")

    def admit(self, secret: str, call_id: str, body: dict[str, Any], headers: Mapping[str, str]) -> Session | None:
        """Remember a request and return its session, or None for a call without one.

        Raises:
            PermissionError: the session is sealed.
        """
        with self._lock:
            session = self._by_secret.get(secret)
            rollout_id = session.rollout_id if session else None
            self._seen.append(Seen(body=body, headers=headers, call_id=call_id, rollout_id=rollout_id))
            if session is not None and session.sealed:
                session.late_calls += 1
                raise PermissionError(f"session of rollout {rollout_id!r} is sealed")
            return session

    def keep(self, session: Session, call: TokenCall) -> None:
        """Record a call; the same id again is a client's retry of it."""
        with self._lock:
            before = session.calls.get(call.call_id)
            if before is not None:
                call = call.model_copy(update={"retries": before.retries + 1, "started_s": before.started_s})
            session.calls[call.call_id] = call

    @property
    def seen(self) -> tuple[Seen, ...]:
        """Every request so far, in order of arrival."""
        with self._lock:
            return tuple(self._seen)


def recorded(call_id: str, body: dict[str, Any], replies: Sequence[Reply], started_s: float) -> TokenCall:
    """Return the token plane of one answered (or refused) call."""
    messages = tuple(to_message(message) for message in body["messages"])
    tools = tuple(to_tool(tool) for tool in body.get("tools") or ())
    refused = next((reply for reply in replies if reply.status != 200), None)
    return TokenCall(
        call_id=call_id,
        started_s=started_s,
        latency_s=time.time() - started_s,
        messages=messages,
        tools=tools,
        prompt_ids=prompt_ids(messages, tools),
        completions=() if refused else tuple(_completion(i, reply) for i, reply in enumerate(replies)),
        sampling={name: body[name] for name in SAMPLING if body.get(name) is not None},
        constrained="response_format" in body or body.get("tool_choice") not in (None, "auto", "none"),
        error=Failure(kind="ScriptedStatus", message=f"HTTP {refused.status}") if refused else None,
    )


def _completion(index: int, reply: Reply) -> Completion:
    message = Message(role="assistant", content=reply.content, tool_requests=reply.tool_requests)
    ids = turn_ids(message)
    return Completion(
        index=index,
        message=message,
        token_ids=ids,
        logprobs=(-0.1,) * len(ids),
        weight_versions=(0,) * len(ids),
        finish_reason=finish_reason(reply),
    )


def finish_reason(reply: Reply) -> str:
    """Return why the answer ended."""
    return reply.finish_reason or ("tool_calls" if reply.tool_requests else "stop")
