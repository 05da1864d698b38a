"""The messages as the model wrote them, and the call behind each answer.

Only ADK needs this: it keeps tool arguments as a dict. Written out again they are other text than the model sampled
(spacing, escapes), and the next prompt would not extend the last one. So a message is replayed word for word while
ADK, a planner or a callback left it unchanged.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable
from typing import Any

from google.adk.models.llm_response import LlmResponse
from google.genai import types

from woodshed.capture import OpenCall, Rollout

_Key = tuple[tuple[Any, ...], ...]
_said: weakref.WeakKeyDictionary[Rollout, dict[_Key, dict[str, Any]]] = weakref.WeakKeyDictionary()
_answers: weakref.WeakKeyDictionary[Rollout, list[tuple[weakref.ref[LlmResponse], OpenCall]]] = (
    weakref.WeakKeyDictionary()
)


def answered(rollout: Rollout, answer: LlmResponse, call: OpenCall) -> None:
    """Note which call gave an answer."""
    _answers.setdefault(rollout, []).append((weakref.ref(answer), call))


def call_behind(rollout: Rollout, answer: LlmResponse) -> OpenCall | None:
    """Return the call that gave an answer, or None where a callback made the answer."""
    return next((call for known, call in reversed(_answers.get(rollout, [])) if known() is answer), None)


def remember(rollout: Rollout, content: types.Content | None, message: dict[str, Any]) -> None:
    """Keep the model's message that `content` was made from."""
    if content is not None and (key := _key(content.parts or ())) is not None:
        _said.setdefault(rollout, {})[key] = message


def recall(rollout: Rollout, content: types.Content) -> dict[str, Any] | None:
    """Return the model's message that `content` was made from; None where it was changed, or is not the model's."""
    key = _key(content.parts or ())
    return _said.get(rollout, {}).get(key) if key is not None else None


def _key(parts: Iterable[types.Part]) -> _Key | None:
    key: list[tuple[Any, ...]] = []
    for part in parts:
        if (call := part.function_call) is not None:
            key.append(("call", call.id, call.name, json.dumps(call.args or {}, sort_keys=True, default=str)))
        elif part.text is not None:
            key.append(("text", part.text, bool(part.thought)))
        else:
            return None
    return tuple(key) or None
