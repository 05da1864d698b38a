"""The record of one rollout: model calls and tool calls, each opened and closed once."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from woodshed.capture.plain import to_plain, to_text
from woodshed.types import CallMetadata, Failure, ToolCall

CALL_ID_HEADER = "x-woodshed-call-id"
"""HTTP header that carries the call id from the hook to the engine's gateway."""


def new_id() -> str:
    """Return a fresh id for a call, a rollout or a group."""
    return os.urandom(16).hex()


def failure(error: BaseException) -> Failure:
    """Return an exception as data."""
    return Failure(kind=type(error).__name__, message=to_text(error)[:4000])


class OpenCall:
    """One model call in progress; `superseded` may be set any time before the rollout ends."""

    def __init__(
        self, *, agent: str | None, parent_call_id: str | None, author_model: str | None, attempt: int
    ) -> None:
        """Draw a fresh call id."""
        self.call_id = new_id()
        self.agent = agent
        self.task: str | None = None
        self.parent_call_id = parent_call_id
        self.author_model = author_model
        self.attempt = attempt
        self.superseded = False
        self.error: Failure | None = None

    def note(self) -> CallMetadata:
        """Return the call as a frozen value."""
        return CallMetadata(
            call_id=self.call_id,
            agent=self.agent,
            task=self.task,
            parent_call_id=self.parent_call_id,
            attempt=self.attempt,
            superseded=self.superseded,
            author_model=self.author_model,
            error=self.error,
        )


class OpenTool:
    """One tool call in progress."""

    def __init__(self, *, tool_call_id: str | None, name: str, arguments: Any, agent: str | None) -> None:
        """Start the clock."""
        self.tool_call_id = tool_call_id if tool_call_id is None else to_text(tool_call_id)
        self.name = to_text(name)
        self.arguments = to_plain(arguments)
        self.agent = agent
        self.result: str | None = None
        self.error: Failure | None = None
        self._started = time.perf_counter()
        self._latency_s: float | None = None

    def close(self, result: str | None = None, error: BaseException | None = None) -> None:
        """Stop the clock and keep the outcome; an exception noted before, by an inner hook, stays."""
        if self._latency_s is None:
            self._latency_s = time.perf_counter() - self._started
        self.result = to_text(result) if result is not None else self.result
        if error is not None and self.error is None:
            self.error = failure(error)

    def tool_call(self) -> ToolCall:
        """Return the tool call as a frozen value."""
        return ToolCall(
            tool_call_id=self.tool_call_id,
            name=self.name,
            arguments=self.arguments,
            result=self.result,
            error=self.error,
            latency_s=self._latency_s if self._latency_s is not None else time.perf_counter() - self._started,
            agent=self.agent,
        )


class Recorder:
    """The structure plane of one rollout; safe to use from several threads."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._calls: list[OpenCall] = []
        self._tools: list[OpenTool] = []
        self._asked_by: dict[str, dict[str | None, str]] = {}
        """Tool call id → agent, None being any → id of the model call that gave it last."""

    def open_call(
        self,
        *,
        agent: str | None = None,
        parent_call_id: str | None = None,
        author_model: str | None = None,
        attempt: int = 1,
    ) -> OpenCall:
        """Open a model call; send its `call_id` in the header `CALL_ID_HEADER`."""
        call = OpenCall(agent=agent, parent_call_id=parent_call_id, author_model=author_model, attempt=attempt)
        with self._lock:
            self._calls.append(call)
        return call

    def open_tool(self, *, tool_call_id: str | None, name: str, arguments: Any, agent: str | None = None) -> OpenTool:
        """Open a tool call; call `close` on it when the tool returned or raised."""
        tool = OpenTool(tool_call_id=tool_call_id, name=name, arguments=arguments, agent=agent)
        with self._lock:
            self._tools.append(tool)
        return tool

    def remember_request(self, tool_call_id: str, call: OpenCall) -> None:
        """Note which model call asked for a tool: it is the parent of the calls made inside the tool."""
        self._asked_by.setdefault(tool_call_id, {}).update({None: call.call_id, call.agent: call.call_id})

    def asked_by(self, tool_call_id: str | None, agent: str | None = None) -> str | None:
        """Return the id of the model call that asked for this tool call, or None where it is not known.

        Some models number their tool calls anew in each turn, so that several calls give the same id: it is the latest
        call of the same agent, else the latest of all.
        """
        calls = self._asked_by.get(tool_call_id or "", {})
        return calls.get(agent) or calls.get(None)

    def open_calls(self) -> tuple[OpenCall, ...]:
        """Return the calls noted so far, in order, still open to a late `superseded`."""
        with self._lock:
            return tuple(self._calls)

    def notes(self) -> tuple[CallMetadata, ...]:
        """Return the model calls noted so far, in order."""
        return tuple(call.note() for call in self.open_calls())

    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the tool calls noted so far, in order."""
        with self._lock:
            return tuple(tool.tool_call() for tool in self._tools)
