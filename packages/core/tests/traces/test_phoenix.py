"""A real Phoenix takes what is sent, and gives it back: the same rows, tree, scores and conversations."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import asked, call, said, trajectory
from rollouts_drawn import rows_of
from stored_run import counted, write_run

from woodshed.testing.waiting import eventually
from woodshed.traces import Trace, export_traces, read_traces
from woodshed.training.run.store import RunStore
from woodshed.types import CallMetadata, Message, ModelCall, ToolCall, ToolSpec, Trajectory

PHOENIX = Path(__file__).parents[4] / ".phoenix" / "bin" / "phoenix"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PHOENIX.exists(), reason="Phoenix is not installed; `make phoenix` installs it"),
]


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Phoenix on loopback with a database of its own."""
    home = tmp_path_factory.mktemp("phoenix")
    port, grpc = _free_ports()
    own = {
        "PHOENIX_WORKING_DIR": str(home), "PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc), "PHOENIX_TELEMETRY_ENABLED": "false",
    }  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with (home / "log").open("wb") as log:
        server = subprocess.Popen([PHOENIX, "serve"], env={**os.environ, **own}, stdout=log, stderr=log)
    try:
        asyncio.run(eventually(lambda: _answers(url) or server.poll() is not None, "Phoenix answers", within_s=240))
        assert server.poll() is None, (home / "log").read_text()[-2000:]
        yield url
    finally:
        server.terminate()
        server.wait(30)


def _free_ports() -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def arrived(url: str, project: str, count: int) -> list[dict[str, Any]]:
    """Return the spans of a project when all of them have arrived."""
    found: list[dict[str, Any]] = []

    def all_there() -> bool:
        answer = httpx.get(f"{url}/v1/projects/{project}/spans", params={"limit": 500}, trust_env=False)
        found[:] = answer.json()["data"] if answer.status_code == 200 else []
        return len(found) >= count

    asyncio.run(eventually(all_there, f"{count} spans of {project!r} have arrived"))
    return found


def read_back(spans: list[dict[str, Any]], path: Path) -> dict[str, Trace]:
    path.write_text(json.dumps({"data": spans, "next_cursor": None}))
    read = read_traces(path)
    assert read.notes.lines() == []
    return {trace.id: trace for trace in read.traces}


def hostile() -> Trajectory:
    """A team's rollout with content that formats like to lose, thoughts, and a tool that failed."""
    odd = 'a\u2028b \x07 "☃" 🧪 ﷺ\r\n\t' + "x" * 5_000
    tools = (ToolSpec(name="look", description=odd, parameters={"properties": {"a.b": {"type": "string"}}}),)
    user = Message(role="user", content=odd)
    first = call(asked("look", '{"a.b":  "☃"}'), call_id="h1", messages=(user,), tools=tools)
    thought = first.tokens.completions[0].model_copy(update={"reasoning": odd})
    parts = [
        _at(
            0.0,
            first.model_copy(update={"tokens": first.tokens.model_copy(update={"completions": (thought,)})}),
            "planner",
        ),
        _at(0.25, call(said(odd), call_id="h2", messages=(user,)), "red", parent="h1"),
        _at(0.5, call(said(""), call_id="h3", messages=(user, said("so"), user), prompt_ids=()), None),
    ]
    told = ToolCall(tool_call_id="c1", name="look", arguments={"a.b": [None, 1e300]}, result=odd, latency_s=0.125)
    return trajectory("hostile", *parts).model_copy(update={"tool_calls": (told,)})


def _at(offset_s: float, made: ModelCall, agent: str | None, parent: str | None = None) -> ModelCall:
    note = CallMetadata(call_id=made.tokens.call_id, agent=agent, parent_call_id=parent)
    tokens = made.tokens.model_copy(update={"started_s": 1_760_000_000 + offset_s})
    return made.model_copy(update={"tokens": tokens, "note": note})


def test_rows_scores_and_talks_come_back_from_phoenix(phoenix: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "support")
    exported = export_traces(run, phoenix, "openinference", step=1)
    spans = arrived(phoenix, "answer", exported.written)
    traces = read_back(spans, tmp_path / "spans.json")

    assert exported.to == f"{phoenix}/v1/traces"
    assert {id: rows_of(trace.calls) for id, trace in traces.items()} == {
        "r0": rows_of(counted("r0", "7 lamps").calls), "r1": rows_of(counted("r1", "8 lamps").calls),
    }  # fmt: skip
    assert {id: trace.about["score"]["value"] for id, trace in traces.items()} == {"r0": 0.75, "r1": 0.25}
    root = next(s for s in spans if s["parent_id"] is None and s["attributes"]["gen_ai.conversation.id"] == "r0")
    assert root["attributes"]["session.id"] == "support/0/s"
    (event,) = root["events"]
    assert event["name"] == "gen_ai.evaluation.result"
    assert event["attributes"]["gen_ai.evaluation.score.value"] == 0.75


def test_sending_a_run_twice_makes_nothing_double(phoenix: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "twice")
    (run / "config.json").write_text('{"rollout": {"name": "twice"}}')
    exported = [export_traces(run, phoenix, "openinference", step=11) for _ in range(2)]
    export_traces(run, phoenix, "openinference", step=2)
    spans = arrived(phoenix, "twice", exported[0].written + 1)

    ids = [span["context"]["span_id"] for span in spans]
    assert len(ids) == len(set(ids))


def test_a_team_is_a_tree_and_hostile_content_is_whole(phoenix: str, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "hostile")
    store.claim({"policy": {"model": "tiny"}}, rollout={"name": "hostile", "file": None})
    store.save_trajectory("0/s/0", hostile())
    store.close()
    exported = export_traces(tmp_path / "hostile", phoenix, "openinference")
    spans = arrived(phoenix, "hostile", exported.written)
    trace = read_back(spans, tmp_path / "spans.json")["hostile"]

    assert rows_of(trace.calls) == rows_of(hostile().calls)
    assert [c.agent for c in trace.conversations] == ["planner", "red", None]
    assert [c.parent_call_id for c in trace.conversations] == [None, "h1", None]
    calls = {call.tokens.call_id: call.tokens for call in trace.calls}
    for call_ in hostile().calls:
        assert calls[call_.tokens.call_id] == call_.tokens
    by_id = {span["context"]["span_id"]: span for span in spans}
    parents = {
        span["name"]: by_id.get(span["parent_id"], {}).get("name") for span in spans if span["name"] != "chat tiny"
    }
    assert parents == {"hostile": None, "red": "chat tiny", "execute_tool look": "hostile"}
    (tool,) = [span for span in spans if span["span_kind"] == "TOOL"]
    assert json.loads(tool["attributes"]["input.value"]) == {"a.b": [None, 1e300]}
