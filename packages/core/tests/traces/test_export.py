"""A run's folder goes out: which rollouts, to where, and what is refused."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from rollouts_drawn import rows_of
from stored_run import counted, lines, write_run

from woodshed.errors import ConfigError, TraceServerError
from woodshed.traces import export_traces, read_traces
from woodshed.training.sft.conversation_file import examples_of_file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "support")


def ids(path: Path) -> list[str]:
    return [trace.id for trace in read_traces(path).traces]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, ["r0", "r1", "r2", "r5"]),
        ({"step": 1}, ["r0", "r1"]),
        ({"step": "11"}, ["r5"]),
        ({"step": "before"}, ["r4"]),
        ({"best": True}, ["r0"]),
    ],
)
@pytest.mark.parametrize("format", ["atif", "openinference", "messages"])
def test_the_chosen_rollouts_are_written_in_order(
    run: Path, tmp_path: Path, format: str, choice: dict[str, Any], expected: list[str]
) -> None:
    to = tmp_path / "out.jsonl"
    export_traces(run, to, format, **choice)

    assert ids(to) == expected


@pytest.mark.parametrize("format", ["atif", "openinference"])
def test_rows_and_scores_come_back(run: Path, tmp_path: Path, format: str) -> None:
    to = tmp_path / "out.jsonl"
    export_traces(run, to, format, step=1)
    first, second = read_traces(to).traces

    assert rows_of(first.calls) == rows_of(counted("r0", "7 lamps").calls)
    assert [t.about["score"]["value"] for t in (first, second)] == [0.75, 0.25]
    assert first.about["slot"] == "0/s/0"


def test_what_is_exported_as_messages_is_what_sft_takes(run: Path, tmp_path: Path) -> None:
    to = tmp_path / "talks.jsonl"
    exported = export_traces(run, to, "messages", best=True)
    (example,) = examples_of_file(to)

    assert exported.written == 1
    assert [m["role"] for m in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert example.messages[2]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"item":"lamps"}'}


def test_a_rollout_without_a_call_is_named_and_left_out(run: Path, tmp_path: Path) -> None:
    exported = export_traces(run, tmp_path / "out.jsonl", "atif", step=2)

    assert (exported.rollouts, exported.written) == (2, 1)
    assert exported.notes.lines() == ["left out 1/a/b/1: the rollout has no model call"]


def test_atif_goes_into_a_folder_file_by_file(run: Path, tmp_path: Path) -> None:
    export_traces(run, tmp_path / "out", "atif", step=1)

    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0-s-0.json", "0-s-1.json"]
    assert ids(tmp_path / "out") == ["r0", "r1"]


def test_atif_names_the_agent_the_model_and_the_reward(run: Path, tmp_path: Path) -> None:
    export_traces(run, tmp_path / "one.json", "atif", best=True)
    document = json.loads((tmp_path / "one.json").read_text())

    assert document["agent"]["name"] == "answer"
    assert document["agent"]["model_name"] == "tiny"
    assert document["final_metrics"] == {
        "total_prompt_tokens": 9, "total_completion_tokens": 4, "total_steps": 4, "extra": {"reward": 0.75},
    }  # fmt: skip
    assert document["steps"][2]["metrics"]["prompt_token_ids"] == [1, 2, 3]
    assert document["steps"][2]["timestamp"].startswith("2025-10-09T")


def test_the_run_is_not_changed(run: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    export_traces(run, tmp_path / "out.jsonl", "atif")

    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_a_run_in_progress_is_read(run: Path, tmp_path: Path) -> None:
    with sqlite3.connect(run / "run.sqlite") as writer:
        writer.execute("BEGIN IMMEDIATE")
        export_traces(run, tmp_path / "out.jsonl", "messages")

    assert len(lines(tmp_path / "out.jsonl")) == 4


@pytest.mark.parametrize(
    ("to", "format", "options", "said"),
    [
        ("out.jsonl", "atif", {"step": 7}, "no finished rollout of step '7'; there are ['before', '1', '2', '11']"),
        ("out.jsonl", "atif", {"step": 11, "best": True}, "none is judged with scores that differ"),
        ("out.json", "atif", {}, "would hold several trajectories"),
        ("out.csv", "atif", {}, "ends in '.csv'; expected .jsonl"),
        ("out.json", "messages", {}, "is no .jsonl file"),
        ("out", "openinference", {}, "is no .jsonl file"),
        ("http://127.0.0.1:1", "messages", {}, "only openinference is sent to a server"),
        ("there.jsonl", "atif", {}, "is there already; choose another name, or replace it with --overwrite"),
    ],
)
def test_what_cannot_be_written_says_why(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, format: str, options: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").write_text("mine")
    with pytest.raises(ConfigError) as raised:
        export_traces(run, to, format, **options)

    assert said in str(raised.value)
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "there.jsonl"]


@pytest.mark.parametrize("what", ["nothing", "no database", "a newer one"])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    if what == "no database":
        (folder / "run.sqlite").write_text("not SQLite at all, but long enough to be told from an empty file " * 20)
    if what == "a newer one":
        with sqlite3.connect(folder / "run.sqlite") as db:
            db.execute("PRAGMA user_version = 99")

    said = {"nothing": "holds no run", "no database": "cannot be read", "a newer one": "newer woodshed"}
    with pytest.raises(ConfigError, match=said[what]):
        export_traces(folder, tmp_path / "out.jsonl", "atif")


def test_a_server_that_is_not_there_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with pytest.raises(TraceServerError, match=r"nothing at 'http://127\.0\.0\.1:9/v1/traces'"):
        export_traces(run, "http://127.0.0.1:9", "openinference", step=1)
