"""Whether two messages are the same, although a framework re-sent one of them in a slightly different form."""

from __future__ import annotations

import json
from typing import Any

from woodshed.types.message import Message, ToolRequest


def same_message(sent: Message, kept: Message) -> bool:
    """Whether two messages are the same; frameworks re-send None as `""` and change the spacing of arguments."""
    return identity(sent) == identity(kept)


def identity(message: Message) -> tuple[Any, ...]:
    """Return the parts of a message that identify it, to compare or to hash."""
    requests = tuple([_request_identity(request) for request in message.tool_requests])
    return message.role, (message.content or "").strip(), requests, message.tool_call_id


def _request_identity(request: ToolRequest) -> tuple[str, str, str]:
    """Return the parts of a tool request that identify it; arguments are compared as JSON, or else as text."""
    try:
        return request.id, request.name, json.dumps(json.loads(request.arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return request.id, request.name, request.arguments.strip()
