"""Spans of model calls, by OpenInference's or the GenAI conventions → traces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from woodshed.traces import conventions as names
from woodshed.traces.conventions import (
    MessageAttributes,
    MessageContentAttributes,
    OpenInferenceSpanKindValues,
    SpanAttributes,
    ToolAttributes,
    ToolCallAttributes,
)
from woodshed.traces.conversation import Json, Trace
from woodshed.traces.notes import Notes
from woodshed.traces.openai_shape import Unreadable, shaped_messages, shaped_tools
from woodshed.traces.recorded import known_about, unpacked
from woodshed.traces.span_records import SpanRecord, dig
from woodshed.traces.threads import Answered, threads

_MODEL_CALLS = {"chat", "generate_content", "text_completion"}


def from_spans(spans: Iterable[SpanRecord], notes: Notes) -> list[Trace]:
    """Return one trace for each trace id that has a readable model call.

    Spans of model calls are put in order of their start and joined into conversations; every other kind of span is
    only structure. One that cannot be read is noted and left out.
    """
    found: dict[str, list[SpanRecord]] = {}
    for span in spans:
        found.setdefault(span.trace_id, []).append(span)
    return [trace for trace in (_trace(id, spans, notes) for id, spans in found.items()) if trace is not None]


def _trace(id: str, spans: Sequence[SpanRecord], notes: Notes) -> Trace | None:
    calls = sorted((span for span in spans if _is_model_call(span)), key=_order)
    about = next((kept for span in spans if (kept := known_about(_parsed(span.get(names.OWN_ABOUT))))), {})
    if not calls:
        notes.skip(spans[0].place, "a trace without a span of a model call that has its messages")
        return None
    answered = [read for span in calls if (read := _read(span, notes)) is not None]
    if not answered:
        return None
    trace_id = str(about.get("rollout_id") or id)
    lost = [a.call for a in answered if a.call is not None and not a.answers]
    conversations = threads([a for a in answered if a.call is None or a.answers], prefix=trace_id)
    return Trace(id=trace_id, conversations=conversations, place=calls[0].place, lost=tuple(lost), about=about)


def _order(span: SpanRecord) -> tuple[float, int]:
    """Return what orders model calls: their start, and where a clock was too coarse, how much was said before."""
    return span.started, len(_listed(span.get(SpanAttributes.LLM_INPUT_MESSAGES)))


def _is_model_call(span: SpanRecord) -> bool:
    if span.get(SpanAttributes.OPENINFERENCE_SPAN_KIND) == OpenInferenceSpanKindValues.LLM.value:
        return True
    has_messages = span.get(SpanAttributes.LLM_INPUT_MESSAGES) or span.get(names.GENAI_INPUT)
    return bool(has_messages) and (span.text(names.GENAI_OPERATION) or "chat") in _MODEL_CALLS


def _read(span: SpanRecord, notes: Notes) -> Answered | None:
    try:
        prompt, answers = _messages(span)
        tools = tuple(_tools(span))
        kept = _parsed(span.get(names.OWN_CALL))
        is_lost = not prompt and isinstance(kept, dict)  # a call that never reached the engine
        prompt, unknown = ([], []) if is_lost else shaped_messages(prompt, "the span's input messages")
        answers, more = shaped_messages(answers, "the span's output messages") if answers else ([], [])
    except (Unreadable, ValueError, RecursionError) as error:
        notes.skip(span.place, f"a span of a model call: {error}")
        return None
    notes.ignore(span.place, dict.fromkeys([*unknown, *more]))
    call = unpacked(kept, prompt=prompt, tools=tools, answers=answers) if isinstance(kept, dict) else None
    return Answered(
        prompt=prompt,
        # What a failed call answered was not used.
        answers=[a for a in answers if a["role"] == "assistant"] if call is not None or not span.has_failed else [],
        tools=tools,
        agent=span.text(SpanAttributes.AGENT_NAME) or span.text(names.GENAI_AGENT),
        parent_call_id=span.text(names.OWN_PARENT_CALL),
        call=call,
    )


def _messages(span: SpanRecord) -> tuple[list[Json], list[Json]]:
    given = span.get(SpanAttributes.LLM_INPUT_MESSAGES)
    if given:
        said = span.get(SpanAttributes.LLM_OUTPUT_MESSAGES)
        return [_openinference(m) for m in _listed(given)], [_openinference(m) for m in _listed(said)]
    first = _parsed(span.get(names.GENAI_INSTRUCTIONS))
    system = [{"role": "system", "content": _genai_text(first)}] if first else []
    given, said = _parsed(span.get(names.GENAI_INPUT)), _parsed(span.get(names.GENAI_OUTPUT))
    return system + [one for m in _listed(given) for one in _genai(m)], [
        one for m in _listed(said) for one in _genai(m)
    ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _openinference(value: Any) -> Json:
    """Return one message of OpenInference's attributes in OpenAI's shape; checked later."""
    message: Json = {
        "role": dig(value, MessageAttributes.MESSAGE_ROLE),
        "content": dig(value, MessageAttributes.MESSAGE_CONTENT),
        "name": dig(value, MessageAttributes.MESSAGE_NAME),
        "tool_call_id": dig(value, MessageAttributes.MESSAGE_TOOL_CALL_ID),
    }
    parts = _listed(dig(value, MessageAttributes.MESSAGE_CONTENTS))
    if thoughts := [_part_text(part) for part in parts if _part_kind(part) == "reasoning"]:
        message["reasoning"] = "\n".join(thoughts)
        parts = [part for part in parts if _part_kind(part) != "reasoning"]
    if parts and message["content"] is None:
        shaped = [_part(part) for part in parts]
        only_text = thoughts and len(shaped) == 1 and shaped[0]["type"] == "text"
        message["content"] = shaped[0]["text"] if only_text else shaped
    message["tool_calls"] = [
        {
            "id": dig(call, ToolCallAttributes.TOOL_CALL_ID) or "",
            "function": {
                "name": dig(call, ToolCallAttributes.TOOL_CALL_FUNCTION_NAME),
                "arguments": dig(call, ToolCallAttributes.TOOL_CALL_FUNCTION_ARGUMENTS_JSON) or "",
            },
        }
        for call in _listed(dig(value, MessageAttributes.MESSAGE_TOOL_CALLS))
    ]
    return message


def _part_kind(part: Any) -> str:
    return str(dig(part, MessageContentAttributes.MESSAGE_CONTENT_TYPE))


def _part_text(part: Any) -> str:
    return str(dig(part, MessageContentAttributes.MESSAGE_CONTENT_TEXT) or "")


def _part(part: Any) -> Json:
    kind = _part_kind(part)
    if kind == "image":
        url = dig(part, f"{MessageContentAttributes.MESSAGE_CONTENT_IMAGE}.image.url")
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": _part_text(part)} if kind == "text" else {"type": kind}


def _tools(span: SpanRecord) -> list[Json]:
    offered = _listed(span.get(SpanAttributes.LLM_TOOLS))
    if offered:
        return shaped_tools([_parsed(dig(tool, ToolAttributes.TOOL_JSON_SCHEMA)) for tool in offered])
    return shaped_tools(_parsed(span.get(names.GENAI_TOOLS)))


def _genai(value: Any) -> list[Json]:
    """Return one message of the GenAI conventions: its parts are texts, tool calls, or results that are messages."""
    if not isinstance(value, Mapping) or not isinstance(value.get("parts"), list):
        raise Unreadable(f"{str(value)[:80]!r} is no message of the GenAI conventions; expected role and parts")
    parts = [part for part in value["parts"] if isinstance(part, Mapping)]
    results = [
        {
            "role": "tool",
            "tool_call_id": part.get("id") or "",
            "content": _as_text(part.get("response", part.get("result"))),
        }
        for part in parts
        if part.get("type") == "tool_call_response"
    ]
    calls = [part for part in parts if part.get("type") == "tool_call"]
    text, thoughts = _genai_text(parts), _genai_text(parts, "reasoning")
    if results and not calls and not text:
        return results
    message: Json = {"role": value.get("role"), "content": text if text or not calls else None}
    message |= {"tool_calls": calls} if calls else {}
    return [message | ({"reasoning": thoughts} if thoughts else {}), *results]


def _genai_text(parts: Any, kind: str = "text") -> str:
    texts = [str(p.get("content") or "") for p in _listed(parts) if isinstance(p, Mapping) and p.get("type") == kind]
    return "\n".join(texts)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parsed(value: Any) -> Any:
    """Return a value that may be JSON in a text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
