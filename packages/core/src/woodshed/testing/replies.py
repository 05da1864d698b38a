"""What a scripted engine answers: text, tool calls, an HTTP error, or nothing at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from woodshed.errors import ConfigError
from woodshed.types import ToolRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One scripted answer to one chat completion request."""

    content: str | None = None
    tool_requests: tuple[ToolRequest, ...] = ()
    finish_reason: str | None = None
    """None means what an engine would say: `tool_calls` where there are some, else `stop`."""
    status: int = 200
    retry_after_s: float | None = None
    code: str | None = None
    """The error's code, as an engine's gateway gives it: `request_refused`, `policy_lost`."""
    delay_s: float = 0.0
    """How long the engine thinks before it answers."""
    hangs: bool = False
    """True for an engine that takes the request and never answers."""


Script = Callable[[dict[str, Any]], Reply | Sequence[Reply]]
"""Request body → the answer, or one answer per choice of a request with `n > 1`."""


def say(content: str, *, delay_s: float = 0.0, finish_reason: str | None = None) -> Reply:
    """Return an answer of plain text."""
    return Reply(content=content, delay_s=delay_s, finish_reason=finish_reason)


def call_tool(name: str, *, id: str | None = None, **arguments: Any) -> Reply:
    """Return an answer that calls one tool; without `id` the engine gives it a fresh one."""
    return call_tools(ToolRequest(id=id or "", name=name, arguments=json.dumps(arguments)))


def call_tools(*requests: ToolRequest, content: str | None = None) -> Reply:
    """Return an answer that calls several tools at once; their argument text is sent as it is."""
    return Reply(content=content, tool_requests=requests)


def fail(status: int, *, retry_after_s: float | None = None, code: str | None = None) -> Reply:
    """Return an HTTP error such as 429 or 500."""
    return Reply(status=status, retry_after_s=retry_after_s, code=code)


def hang() -> Reply:
    """Return silence: the request is taken and never answered."""
    return Reply(hangs=True)


def in_order(*replies: Reply) -> Script:
    """Return a script that gives each reply once, in order, whatever is asked."""
    left, lock = list(replies), threading.Lock()

    def script(request: dict[str, Any]) -> Reply:
        with lock:
            if not left:
                raise ConfigError(
                    f"the script had {len(replies)} replies and was asked for one more, about "
                    f"{request['messages'][-1]!r}; add a reply or use a function of the request"
                )
            return left.pop(0)

    return script
