"""What a tool gave back, as the text that a model is told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from woodshed.mcp.sdk import field


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolAnswer:
    """A tool's answer to one call."""

    text: str
    is_error: bool = False
    cut_chars: int = 0
    """How many characters were left out because the answer was longer than `Limits.result_chars`."""
    timed_out: bool = False


def to_answer(result: Any, *, limit: int) -> ToolAnswer:
    """Return a `CallToolResult` as text of at most `limit` characters, and a sentence about what was cut."""
    parts = [_block(block) for block in result.content]
    if not parts and (structured := field(result, "structuredContent")) is not None:
        parts = [json.dumps(structured, ensure_ascii=False)]
    text, is_error = "\n".join(parts), bool(field(result, "isError"))
    return ToolAnswer(text=cut(text, limit), is_error=is_error, cut_chars=max(len(text) - limit, 0))


def cut(text: str, limit: int) -> str:
    """Return the first `limit` characters, and where some are missing say how many."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[cut: the tool returned {len(text):,} characters, the first {limit:,} are shown]"


def _block(block: Any) -> str:
    """Return one content block as text; what is not text is named with its kind and size."""
    if block.type == "text":
        return str(block.text)
    if block.type == "resource":
        inner = block.resource
        return str(inner.text) if hasattr(inner, "text") else f"[{inner.uri}: {field(inner, 'mimeType') or 'binary'}]"
    if block.type == "resource_link":
        return f"[{block.name}: {block.uri}]"
    return f"[{block.type} {field(block, 'mimeType')}, {len(block.data)} characters of base64]"
