"""An OTLP server on loopback: what arrives, where, with which key; and what is said when it refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from packaging.version import Version
from stored_run import write_run

from woodshed.errors import TraceServerError
from woodshed.traces import conventions, export_traces


class Collector(ThreadingHTTPServer):
    """Takes spans, and answers as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body = 200, b""
        self.requests: list[tuple[str, str | None, otlp.ExportTraceServiceRequest]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[str]:
        return [s.name for _, _, r in self.requests for a in r.resource_spans for b in a.scope_spans for s in b.spans]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        request = otlp.ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append((self.path, self.headers.get("x-key"), request))
        self.send_response(self.server.status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["", "/", "/api/public/otel", "/v1/traces"])
def test_spans_arrive_at_otlps_path_with_the_environments_key(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1")
    exported = export_traces(write_run(tmp_path / "run"), collector.url + path, "openinference", step=1)

    expected = path.rstrip("/").removesuffix("/v1/traces") + "/v1/traces"
    assert {(path, key) for path, key, _ in collector.requests} == {(expected, "secret")}
    assert collector.spans() == ["answer", "chat tiny", "chat tiny"] * 2
    assert exported.written == 6
    (root, *_) = collector.requests[0][2].resource_spans[0].scope_spans[0].spans
    assert len(root.attributes) > 5


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"no key", "answered 401 Unauthorized: no key. Set its key in OTEL_EXPORTER_OTLP_HEADERS"),
        (400, b"", r"answered 400 Bad Request: \(no text\)"),
        (
            200,
            otlp.ExportTraceServiceResponse(
                partial_success=otlp.ExportTracePartialSuccess(rejected_spans=2, error_message="too large")
            ).SerializeToString(),
            r"took the spans only in part: 2 were refused \(too large\)",
        ),
    ],
)
def test_a_server_that_refuses_is_quoted(
    collector: Collector, tmp_path: Path, status: int, body: bytes, said: str
) -> None:
    collector.status, collector.body = status, body
    with pytest.raises(TraceServerError, match=said):
        export_traces(write_run(tmp_path / "run"), collector.url, "openinference", step=1)


@pytest.mark.skipif(
    Version(metadata.version("opentelemetry-semantic-conventions")) < Version("0.65b0"),
    reason="the names are pinned as of a later release of the conventions",
)
def test_the_pinned_names_are_those_of_the_genai_conventions() -> None:
    pinned = {v for k, v in vars(conventions).items() if k.startswith("GENAI_") and k != "GENAI_EVALUATION_EVENT"}

    assert pinned - {v for k, v in vars(gen_ai_attributes).items() if k.startswith("GEN_AI_")} == set()
