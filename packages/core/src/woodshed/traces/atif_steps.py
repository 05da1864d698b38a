"""Messages in OpenAI's shape ↔ the steps of ATIF. A step is one message, or an answer with the results of its calls."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, get_args

from woodshed.traces.atif_models import ContentPart, ImageSource, Observation, ObservationResult, Step, ToolCall
from woodshed.traces.conversation import Json
from woodshed.traces.openai_shape import Unreadable, shaped_messages
from woodshed.traces.recorded import OWN

_IMAGE_TYPES: tuple[Any, ...] = get_args(ImageSource.model_fields["media_type"].annotation)
_RAW = "raw_arguments"


def step_of(number: int, messages: Sequence[Json], **fields: Any) -> Step:
    """Return one message as a step; an assistant's with the tool messages that follow it.

    What ATIF has no field for (a name, other content parts, None where it wants text) is kept in `extra`, so that
    `messages_of` returns the very same messages.
    """
    first, results = messages[0], messages[1:]
    requests = first.get("tool_calls") or []
    ids = {request["id"] for request in requests}
    shape: Json = {"source": "user" if first["role"] == "user" else "system", "message": _content(first)}
    if first["role"] == "assistant":
        calls = [_call(request) for request in requests]
        shape |= {"source": "agent", "tool_calls": calls or None, "reasoning_content": first.get("reasoning")}
    elif first["role"] == "tool":
        shape["message"], results = "", messages
    if results:
        shape["observation"] = Observation(results=[_result(message, ids) for message in results])
    extra = fields.pop("extra", None) or {}
    step = Step(step_id=number, extra={OWN: extra} if extra else None, **shape, **fields)
    if messages_of(step) == list(messages):
        return step
    return step.model_copy(update={"extra": {OWN: {**extra, "messages": list(messages)}}})


def messages_of(step: Step) -> list[Json]:
    """Return the messages of a step.

    A result that answers no tool call reaches a chat model as a user's message, as agents without tools have it.
    """
    if "messages" in (kept := own(step)):
        with suppress(Unreadable):
            return shaped_messages(kept["messages"])[0]
    results = [] if step.observation is None else step.observation.results
    told = [_told(result) for result in results if result.content is not None]
    content = _openai_content(step.message)
    if step.source != "agent":
        role = "user" if step.source == "user" else "system"
        return [*([{"role": role, "content": content}] if content or not told else []), *told]
    answer: Json = {"role": "assistant", "content": content}
    if step.tool_calls:
        answer |= {"content": content or None, "tool_calls": [_request(call) for call in step.tool_calls]}
    if step.reasoning_content is not None:
        answer["reasoning"] = step.reasoning_content
    return [answer, *told]


def own(part: Any) -> Json:
    """Return what woodshed wrote into the `extra` of a part of a trajectory; empty in one of another origin."""
    found = (part.extra or {}).get(OWN)
    return found if isinstance(found, dict) else {}


def _call(request: Json) -> ToolCall:
    function = request["function"]
    arguments = _object(function["arguments"])
    extra = None if _text(arguments) == function["arguments"] else {_RAW: function["arguments"]}
    return ToolCall(
        tool_call_id=request["id"], function_name=function["name"], arguments=arguments or {}, extra=extra
    )  # fmt: skip


def _object(text: str) -> Json | None:
    """Return argument text as an object that any JSON parser reads again; None for every other text."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _text(arguments: Json | None) -> str | None:
    return None if arguments is None else json.dumps(arguments, ensure_ascii=False)


def _request(call: ToolCall) -> Json:
    raw = (call.extra or {}).get(_RAW)
    arguments = raw if isinstance(raw, str) else json.dumps(call.arguments, ensure_ascii=False)
    return {
        "id": call.tool_call_id,
        "type": "function",
        "function": {"name": call.function_name, "arguments": arguments},
    }


def _result(message: Json, ids: set[str]) -> ObservationResult:
    call_id = message.get("tool_call_id")
    return ObservationResult(source_call_id=call_id if call_id in ids else None, content=_content(message))


def _told(result: ObservationResult) -> Json:
    content = _openai_content(result.content)
    if result.source_call_id is None:
        return {"role": "user", "content": content}
    return {"role": "tool", "tool_call_id": result.source_call_id, "content": content}


def _content(message: Json) -> str | list[ContentPart]:
    content = message.get("content")
    return [_part(part) for part in content] if isinstance(content, list) else content or ""


def _part(part: Json) -> ContentPart:
    if part.get("type") == "text":
        return ContentPart(type="text", text=part["text"])
    url = part.get("image_url", {}).get("url", "") if isinstance(part.get("image_url"), dict) else ""
    kind = url.partition(";")[0].removeprefix("data:") if url.startswith("data:") else mimetypes.guess_type(url)[0]
    if part.get("type") == "image_url" and kind in _IMAGE_TYPES:
        return ContentPart(type="image", source=ImageSource.model_validate({"media_type": kind, "path": url}))
    return ContentPart(type="text", text=f"[{part.get('type')}]")


def _openai_content(content: str | list[ContentPart] | None) -> Any:
    return [_openai_part(part) for part in content] if isinstance(content, list) else content


def _openai_part(part: ContentPart) -> Json:
    if part.source is None:
        return {"type": "text", "text": part.text}
    kind = f"{part.type}_url"
    return {"type": kind, kind: {"url": part.source.path}}
