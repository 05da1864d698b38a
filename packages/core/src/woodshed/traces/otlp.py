"""OpenTelemetry's SDK: finished spans, sent by OTLP or written as its JSON. An optional dependency, imported here only.

Spans are made finished instead of by a tracer: they lie in the past, their ids are given, and neither the limits nor
`OTEL_SDK_DISABLED` of the environment may drop what a run recorded.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from woodshed.errors import ConfigError, TraceServerError

try:
    import requests
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import DecodeError
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
except ImportError as error:
    raise ConfigError("spans need OpenTelemetry and OpenInference: pip install 'woodshed[otel]'") from error

_SCOPE = InstrumentationScope("woodshed")
_BATCH = 64
"""Spans per request; those of a long rollout hold its whole history once for each call."""
_PATH = "/v1/traces"
_SHOWN = 300

__all__ = [
    "Event",
    "ReadableSpan",
    "Resource",
    "Sender",
    "SpanContext",
    "Status",
    "StatusCode",
    "context",
    "otlp_json",
    "span",
]


def context(trace_id: int, span_id: int) -> SpanContext:
    """Return a span's place in its trace: ids of 128 and of 64 bits."""
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def span(
    name: str,
    own: SpanContext,
    parent: SpanContext | None,
    resource: Resource,
    attributes: Mapping[str, Any],
    *,
    started: float,
    ended: float,
    status: Status | None = None,
    events: Sequence[Event] = (),
    is_client: bool = False,
) -> ReadableSpan:
    """Return a finished span; times are nanoseconds since 1970."""
    return ReadableSpan(
        name, own, parent, resource, attributes, events,
        kind=SpanKind.CLIENT if is_client else SpanKind.INTERNAL,
        status=status or Status(StatusCode.OK),
        start_time=int(started),
        end_time=int(ended),
        instrumentation_scope=_SCOPE,
    )  # fmt: skip


def otlp_json(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """Return spans as OTLP's JSON has them: one `ExportTraceServiceRequest`, its ids in hexadecimal."""
    request: dict[str, Any] = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for resource in request.get("resourceSpans", ()):
        for scope in resource["scopeSpans"]:
            for one in scope["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in one:
                        one[key] = base64.b64decode(one[key]).hex()
    return request


class Sender:
    """Sends spans to a server over OTLP/HTTP; keys and timeouts are those of OpenTelemetry's environment variables."""

    def __init__(self, url: str) -> None:
        """Send to `url`; OTLP's path `/v1/traces` is added where it is missing."""
        self.url = url if url.rstrip("/").endswith(_PATH) else url.rstrip("/") + _PATH
        self._last: requests.Response | None = None
        self._session = requests.Session()
        self._session.hooks["response"].append(self._answered)
        self._exporter = OTLPSpanExporter(endpoint=self.url, session=self._session)

    def _answered(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._last = response

    def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Send spans, and return when the server has taken all of them.

        Raises:
            TraceServerError: nothing answers, or the server refuses some.
        """
        for batch in _batches(spans):
            self._last = None
            if not self._taken(batch):
                raise TraceServerError(self._refusal())
            if refused := _rejected(self._last):
                raise TraceServerError(f"{self.url!r} took the spans only in part: {refused}")

    def _taken(self, batch: Sequence[ReadableSpan]) -> bool:
        try:
            return self._exporter.export(batch) is SpanExportResult.SUCCESS
        except requests.RequestException:  # of an exporter before 1.35, which does not catch it
            return False

    def _refusal(self) -> str:
        if self._last is None:
            return (
                f"nothing at {self.url!r} takes spans. Start the server, or correct the address: that of OTLP over "
                "HTTP, such as http://127.0.0.1:6006 for Phoenix"
            )
        key = " Set its key in OTEL_EXPORTER_OTLP_HEADERS." if self._last.status_code in (401, 403) else ""
        text = " ".join(self._last.text.split())[:_SHOWN]
        return f"{self.url!r} answered {self._last.status_code} {self._last.reason}: {text or '(no text)'}.{key}"

    def close(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call, unused-ignore]
        self._session.close()


def _batches(spans: Sequence[ReadableSpan]) -> Iterator[Sequence[ReadableSpan]]:
    for start in range(0, len(spans), _BATCH):
        yield spans[start : start + _BATCH]


def _rejected(response: requests.Response | None) -> str | None:
    """Return what the server says of spans that it did not keep although it answered 200."""
    if response is None or not response.content or "json" in response.headers.get("content-type", ""):
        return None
    try:
        partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    except DecodeError:  # another server's own words
        return None
    return f"{partial.rejected_spans} were refused ({partial.error_message})" if partial.rejected_spans else None
