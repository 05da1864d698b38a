"""A chat model's message → what it says, without what it thought on the way."""

from __future__ import annotations

import json
from typing import Any

_SAID = (None, "text", "output_text")


def read_message(message: Any) -> tuple[str, str | None]:
    """Return the text of a message, and its refusal if it holds one.

    A content of several parts is read by kind: `text` is said, `refusal` is one, and everything else, such as
    `thinking`, is not the answer. Neither is `reasoning_content` beside the content: what it holds is a draft.

    Args:
        message: a message of the OpenAI SDK, whose content other servers send in forms of their own.
    """
    refusal = message.refusal if isinstance(message.refusal, str) and message.refusal else None
    content = message.content
    if not isinstance(content, list):
        return _whole(content), refusal
    said = []
    for part in content:
        if isinstance(part, dict) and isinstance(part.get("refusal"), str):
            refusal = refusal or part["refusal"]
        else:
            said.append(_text(part))
    return "".join(said), refusal


def _whole(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    # Servers that parse the JSON they were asked for.
    return json.dumps(content, ensure_ascii=False)


def _text(part: Any) -> str:
    """Return what a part says, "" for one that is thought."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") not in _SAID or part.get("thought"):
        return ""
    text = part.get("text")
    if isinstance(text, dict):
        text = text.get("value")
    return text if isinstance(text, str) else ""
