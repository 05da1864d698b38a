"""When two messages say the same, whoever re-sent one of them."""

from __future__ import annotations

import json
from typing import Any

from woodshed.types.message import Message, ToolRequest


def same_message(sent: Message, kept: Message) -> bool:
    """Whether two messages say the same; frameworks re-send `""` for None and re-space arguments."""
    return identity(sent) == identity(kept)


def identity(message: Message) -> tuple[Any, ...]:
    """Return what makes a message itself, to compare or to hash."""
    requests = tuple(_request_identity(request) for request in message.tool_requests)
    return message.role, (message.content or "").strip(), requests, message.tool_call_id


def _request_identity(request: ToolRequest) -> tuple[str, str, str]:
    """Return what makes a tool request itself; its arguments are compared as JSON, or as text where they are none."""
    try:
        return request.id, request.name, json.dumps(json.loads(request.arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return request.id, request.name, request.arguments.strip()
