"""Any Python value → plain JSON that can be stored, whatever an agent's tools are called with."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_jsonable_python


def to_plain(value: Any) -> Any:
    """Return `value` as plain JSON: what JSON has no word for is named by its type, as `<InMemoryStore>`."""
    try:
        return _plain(value)
    except Exception:
        # A cycle, a depth or a serializer of the author's own that fails: the value is still named.
        return _described(value)


def to_text(value: Any) -> str:
    """Return `value` as text that can be written as UTF-8; halves of surrogate pairs become U+FFFD."""
    try:
        text = value if isinstance(value, str) else str(value)
        if text.isascii():
            return str.__str__(text)
        return str.encode(text, "utf-16", "surrogatepass").decode("utf-16", "replace")
    except Exception:
        return _described(value)


def _described(value: Any) -> str:
    return f"<{type(value).__qualname__}>"


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return to_text(value)
    if isinstance(value, dict):
        return {to_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    made = to_jsonable_python(value, fallback=_described, bytes_mode="base64", inf_nan_mode="constants")
    return made if made is None or isinstance(made, (bool, int, float)) else _plain(made)
