"""Whatever comes through the door, by any method, to any route, with and without a key: no answer is a 5xx.

`WOODSHED_FUZZ_REQUESTS=5000` sends more than the few hundred of every day; the number sent is printed (`pytest -s`).
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from woodshed.testing import say
from woodshed.testing.conformance.engine import GatewayEngine

pytestmark = pytest.mark.slow
REQUESTS = int(os.environ.get("WOODSHED_FUZZ_REQUESTS", "300"))
KEY = "the-key-of-this-engine"
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "FROB"]
CONTROL = [
    "health", "machine", "pause", "resume", "policies", "sessions", "sessions/{}/seal", "policies/{}/step",
    "policies/{}/adapter", "policies/{}/test_adapter_load", "models/{}/serving", "models/{}/render", "models/{}/parse",
    "imported/conversation", "imported/session", "shutdown", "",
]  # fmt: skip
PATHS = ["/v1/chat/completions", "/v1/models", "/", "*", "/docs", *(f"/woodshed/v1/{path}" for path in CONTROL)]
NAMES = ["policy", "nobody", "r", "", "a/b", "..", "é", "\x00", "%"]
KEYS = [
    "model", "messages", "tools", "tool_choice", "n", "stop", "stream", "seed", "max_tokens", "temperature", "logprobs",
    "response_format", "name", "run_id", "rollout_id", "policy", "sampling", "step_id", "rollouts", "session", "lora",
    "token_ids", "prompt_ids", "generation_prompt", "calls", "role", "content", "objective", "advantage",
]  # fmt: skip
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
GOOD: list[dict[str, Any]] = [
    {"model": "policy", "messages": MESSAGES[:1]},
    {"model": "policy", "messages": MESSAGES[:1], "stream": True},
    {"rollout_id": "r", "policy": "policy"},
    {"rollout_id": "r", "policy": "policy", "messages": MESSAGES},
    {"step_id": "1", "rollouts": [{"rollout_id": "r", "advantage": 1.0}]},
    {"policy": "policy", "session": {"rollout_id": "r", "calls": []}},
    {"messages": MESSAGES, "prompt_ids": [1], "token_ids": [2]},
    {},
]
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(NAMES),
        st.sampled_from([10**400, -(2**63), "\ud800", MESSAGES, "policy"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
BODIES = st.one_of(
    st.builds(lambda good, other: json.dumps({**good, **other}).encode(), st.sampled_from(GOOD), st.dictionaries(
        st.sampled_from(KEYS), JSON, max_size=2)),
    st.builds(lambda good, key, value: json.dumps({**good, **({key: value} if key in good else {})}).encode(),
              st.sampled_from(GOOD), st.sampled_from(KEYS), JSON),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=40),
    st.sampled_from([b"", b"{" * 5000, b"[" * 90_000, b'{"a":1', b"\xff\xfe{}", b'"\\ud800"', b"NaN"]),
)  # fmt: skip
HEADERS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([
                b"x-woodshed-call-id", b"x-stainless-retry-count", b"origin", b"host", b"authorization",
                b"content-type", b"accept-encoding", b"content-encoding", b"expect", b"x-forwarded-prefix",
                b"connection",
                b"upgrade", b"x-forwarded-for", b"cookie", b"range", b"http2-settings",
            ]),
            st.one_of(st.binary(max_size=20), st.sampled_from([
                b"9" * 400, b"-1", b"\xb2", b"100-continue", b"gzip", b"websocket", b"h2c", b"close", b"null",
                b"application/x-www-form-urlencoded",
                b"http://[", b"[", b"localhost", b"Bearer", b"multipart/form-data",
            ])),
        ),
        st.tuples(st.binary(min_size=1, max_size=8), st.binary(max_size=8)),
    ),
    max_size=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def engine(needs_engine: None) -> Iterator[GatewayEngine]:
    engine = GatewayEngine(None, api_key=KEY).start()
    engine.vllm.play(lambda request: say("seven"))
    yield engine
    engine.close()


def status_of(engine: GatewayEngine, raw: bytes, within_s: float = 5) -> int | None:
    """Send the bytes of a request and return the answer's status; None where there was none."""
    host, _, port = engine.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(raw)
        client.settimeout(within_s)  # a request without its end is waited for longer
        try:
            head = client.recv(65536)
            while b"\r\n" not in head and (more := client.recv(65536)):
                head += more
        except (ConnectionResetError, TimeoutError):
            return None
    return int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.") else None


def test_no_answer_is_a_5xx(engine: GatewayEngine) -> None:
    secret = engine.open("fuzz").secret
    seen: Counter[int | None] = Counter()

    @settings(max_examples=REQUESTS, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.sampled_from(METHODS), st.sampled_from(PATHS), st.sampled_from(NAMES), HEADERS, BODIES,
        st.sampled_from([KEY, KEY, KEY, secret, "", "wrong", "woodshed-session-x"]), st.booleans(),
    )  # fmt: skip
    def send(method: str, path: str, name: str, headers: list[Any], body: bytes, key: str, is_usual: bool) -> None:
        if path.endswith(("/v1/pause", "/v1/shutdown")) and key == KEY:
            key = "wrong"  # they would end the test
        if path.endswith("/policies") and b'"policy"' in body:
            body = body.replace(b'"policy"', b'"nobody"')  # a trainer takes ten seconds to start
        if is_usual:  # one that gets past the first checks
            method, headers = "GET" if path.endswith(("/models", "/health")) else "POST", []
        lines = [f"{method} {path.replace('{}', quote(name, safe=''))} HTTP/1.1".encode(), b"host: localhost"]
        lines += [b"authorization: Bearer " + key.encode(), b"content-length: %d" % len(body)]
        lines += [a + b": " + b for a, b in headers]
        status = status_of(engine, b"\r\n".join(lines) + b"\r\n\r\n" + body)
        seen[status] += 1
        assert status is None or status < 500, (status, lines, body)

    usual = json.dumps(GOOD[0]).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {secret}\r\n"
    ask = f"{head}content-length: {len(usual)}\r\n\r\n".encode() + usual
    assert status_of(engine, ask, within_s=60) == 200  # the first call warms everything up
    send()
    bad = sum(times for status, times in seen.items() if status is not None and status >= 500)
    print(f"{sum(seen.values())} requests, {bad} answers of 500 and above: {dict(seen)}")
    # It is as it was: nothing of this has hurt it, and what is right is answered.
    assert status_of(engine, ask, within_s=60) == 200  # the first call warms everything up
    assert engine.open("after").secret
