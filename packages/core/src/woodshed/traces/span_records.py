"""Spans as they are exported (OTLP's JSON, Phoenix, OpenTelemetry's `to_json`, tables of them) → one shape."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_ATTRIBUTES = "attributes"
_WHOLE = {"json_schema", "arguments", "parameters", "invocation_parameters", "metadata", "value", "definitions"}
"""Attributes whose value is data, so that dots in its keys are no paths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanRecord:
    """One span."""

    trace_id: str
    span_id: str
    started: float
    """Orders the spans of a trace; unknown is 0."""
    place: str
    attributes: Mapping[str, Any]
    """Nested: `llm.input_messages.0.message.role` is `["llm"]["input_messages"][0]["message"]["role"]`."""
    has_failed: bool = False

    def get(self, path: str) -> Any:
        """Return an attribute by its dotted name, or None."""
        return dig(self.attributes, path)

    def text(self, path: str) -> str | None:
        """Return an attribute that is text, or None."""
        value = self.get(path)
        return value if isinstance(value, str) else None


def is_spans(value: Any) -> bool:
    """Whether a JSON value is a span, or a request of OTLP's with spans."""
    if not isinstance(value, Mapping):
        return False
    if "resourceSpans" in value or "resource_spans" in value:
        return True
    has_attributes = _ATTRIBUTES in value or any(key.startswith(f"{_ATTRIBUTES}.") for key in value)
    return has_attributes and _id(value, "trace_id") is not None


def span_records(value: Mapping[str, Any], place: str) -> Iterator[SpanRecord]:
    """Yield the spans of one JSON value."""
    resources = value.get("resourceSpans", value.get("resource_spans"))
    if not isinstance(resources, list):
        yield _record(value, _own_attributes(value), place)
        return
    for resource in resources:
        for scope in resource.get("scopeSpans", resource.get("scope_spans", ())):
            for span in scope.get("spans", ()):
                yield _record(span, _otlp_attributes(span.get(_ATTRIBUTES, ())), place)


def _record(span: Mapping[str, Any], attributes: Mapping[str, Any], place: str) -> SpanRecord:
    status = span.get("status", span.get("status_code"))
    code = status.get("code", status.get("status_code")) if isinstance(status, Mapping) else status
    return SpanRecord(
        trace_id=_id(span, "trace_id") or place,
        span_id=_id(span, "span_id") or "",
        started=_started(span),
        place=place,
        attributes=nested(attributes),
        has_failed=code in (2, "ERROR", "STATUS_CODE_ERROR"),
    )


def _id(span: Mapping[str, Any], name: str) -> str | None:
    camel = name.replace("_i", "I")
    inner = span.get("context")
    sources = (span, inner) if isinstance(inner, Mapping) else (span,)
    found = next((s[k] for s in sources for k in (name, camel, f"context.{name}") if s.get(k)), None)
    return None if found is None else str(found).removeprefix("0x")


def _started(span: Mapping[str, Any]) -> float:
    for key in ("startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime"):
        value = span.get(key)
        if isinstance(value, int | float) or (isinstance(value, str) and value.isdigit()):
            return float(value)
        if isinstance(value, str):
            try:
                return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
            except ValueError:
                continue
    return 0.0


def _own_attributes(span: Mapping[str, Any]) -> Mapping[str, Any]:
    attributes = span.get(_ATTRIBUTES)
    if isinstance(attributes, str):
        try:
            attributes = json.loads(attributes)
        except ValueError:
            attributes = None
    if isinstance(attributes, list):
        return _otlp_attributes(attributes)
    columns = {k.removeprefix(f"{_ATTRIBUTES}."): v for k, v in span.items() if k.startswith(f"{_ATTRIBUTES}.")}
    return {**columns, **(attributes if isinstance(attributes, Mapping) else {})}


def _otlp_attributes(pairs: Any) -> dict[str, Any]:
    return {
        pair["key"]: _otlp_value(pair.get("value") or {})
        for pair in pairs
        if isinstance(pair, Mapping) and "key" in pair
    }


def _otlp_value(value: Mapping[str, Any]) -> Any:
    if "arrayValue" in value:
        return [_otlp_value(item) for item in value["arrayValue"].get("values", ())]
    if "kvlistValue" in value:
        return _otlp_attributes(value["kvlistValue"].get("values", ()))
    if "intValue" in value:
        return int(value["intValue"])  # 64 bits are text in OTLP's JSON
    return next((value[key] for key in ("stringValue", "boolValue", "doubleValue") if key in value), None)


def nested(value: Any) -> Any:
    """Return a value whose dotted keys are paths; an object whose keys are 0, 1, 2, … is a list."""
    if isinstance(value, list):
        return [nested(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    tree: dict[str, Any] = {}
    for key, item in value.items():
        *path, last = str(key).split(".")
        node = tree
        for part in path:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        inner = item if last in _WHOLE else nested(item)
        if isinstance(node.get(last), dict) and isinstance(inner, dict):
            node[last] |= inner
        else:
            node[last] = inner
    return _with_lists(tree)


def _with_lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    inner = {key: item if key in _WHOLE else _with_lists(item) for key, item in tree.items()}
    if inner and all(key.isdigit() for key in inner):
        return [inner[key] for key in sorted(inner, key=int)]
    return inner


def dig(tree: Any, path: str) -> Any:
    """Return what lies at a dotted path of a nested value, or None."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree
