"""The messages as the model wrote them, and the call behind each answer.

Only ADK needs this: it keeps tool arguments as a dict. Written out again they are other text than the model sampled
(spacing, escapes), and the next prompt would not extend the last one. So a message is replayed word for word while
ADK, a planner or a callback left it unchanged.

Two turns may look the same to ADK and not to the model: some models number their tool calls anew in each turn
(`functions.add:0`). So a message is known by the conversation it answered, too.
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
_Messages = list[dict[str, Any]]
_said: weakref.WeakKeyDictionary[Rollout, dict[_Key, list[tuple[int, dict[str, Any]]]]] = weakref.WeakKeyDictionary()
"""Rollout → what ADK keeps of a message → (hash of the conversation before it, the message), oldest first."""
_answers: weakref.WeakKeyDictionary[Rollout, list[tuple[weakref.ref[LlmResponse], OpenCall]]] = (
    weakref.WeakKeyDictionary()
)


def answered(rollout: Rollout, answer: LlmResponse, call: OpenCall) -> None:
    """Note which call gave an answer."""
    _answers.setdefault(rollout, []).append((weakref.ref(answer), call))


def call_behind(rollout: Rollout, answer: LlmResponse) -> OpenCall | None:
    """Return the call that gave an answer, or None where a callback made the answer."""
    return next((call for known, call in reversed(_answers.get(rollout, [])) if known() is answer), None)


def remember(rollout: Rollout, content: types.Content | None, message: dict[str, Any], before: _Messages) -> None:
    """Keep the model's message that `content` was made from, and the conversation that it answered."""
    if content is not None and (key := _key(content.parts or ())) is not None:
        _said.setdefault(rollout, {}).setdefault(key, []).append((_hash(before), message))


def recall(rollout: Rollout, content: types.Content, before: _Messages) -> dict[str, Any] | None:
    """Return the model's message that `content` was made from; None where it was changed, or is not the model's.

    Among several it is the one that answered the same conversation; where that was edited, the next one in order.
    """
    key = _key(content.parts or ())
    known = _said.get(rollout, {}).get(key, []) if key is not None else []
    if len(known) < 2:
        return known[0][1] if known else None
    hash_ = _hash(before)
    if same := [message for hash_before, message in known if hash_before == hash_]:
        return same[-1]
    said = [message for _, message in known]
    return said[min(sum(message in said for message in before), len(said) - 1)]


def _hash(messages: _Messages) -> int:
    """Return the hash of a conversation, without instructions, which may change from turn to turn."""
    return hash(json.dumps([message for message in messages if message["role"] != "system"], default=str))


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
