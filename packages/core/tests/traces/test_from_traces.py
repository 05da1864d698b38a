"""Traces come in: every format by its content, what cannot be read by its place, and the rest is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts_drawn import JSON
from stored_run import counted, lines, write_run

from woodshed.errors import ConfigError
from woodshed.mcp.scenario import load as load_mcp
from woodshed.traces import Format, Scenario, export_traces, from_traces, read_traces, scenarios
from woodshed.traces.messages import talks
from woodshed.traces.of_trajectory import of_trajectory
from woodshed.traces.to_atif import to_atif
from woodshed.traces.to_spans import to_spans
from woodshed.training.config import scenario_ids
from woodshed.training.sft.conversation_file import examples_of_file
from woodshed.types import Score

ASK = {"role": "user", "content": "How many lamps?"}
TELL = {"role": "assistant", "content": "Seven."}
LOOK = {"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}
ATIF = {
    "schema_version": "ATIF-v1.6",
    "session_id": "s1",
    "agent": {"name": "counter", "version": "2", "tool_definitions": [LOOK]},
    "steps": [
        {"step_id": 1, "source": "system", "message": "Count."},
        {"step_id": 2, "source": "user", "message": "How many lamps?"},
        {
            "step_id": 3, "source": "agent", "message": "",
            "tool_calls": [{"tool_call_id": "c1", "function_name": "look", "arguments": {"item": "lamps"}}],
            "observation": {"results": [{"source_call_id": "c1", "content": "7"}]},
            "metrics": {"prompt_token_ids": [1, 2], "completion_token_ids": [3, 4], "logprobs": [-0.1, -0.2]},
        },
        {"step_id": 4, "source": "agent", "message": "Seven.", "is_copied_context": True},
    ],
}  # fmt: skip


def span(**attributes: Any) -> dict[str, Any]:
    return {"name": "llm", "context": {"trace_id": "0xabc", "span_id": "0x1"}, "attributes": attributes}


OPENINFERENCE = span(
    **{
        "openinference.span.kind": "LLM",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": "How many lamps?",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": "Seven.",
        "llm.tools.0.tool.json_schema": json.dumps(LOOK),
    }
)
NESTED = span(
    openinference={"span": {"kind": "LLM"}},
    llm={
        "input_messages": [{"message": {"role": "user", "content": "How many lamps?"}}],
        "output_messages": [{"message": {"role": "assistant", "content": "Seven."}}],
        "tools": [{"tool": {"json_schema": LOOK}}],
    },
)
TABLE = {
    "context.trace_id": "abc", "context.span_id": "1", "attributes.openinference.span.kind": "LLM",
    "attributes.llm.input_messages": [{"message.role": "user", "message.content": "How many lamps?"}],
    "attributes.llm.output_messages": [{"message.role": "assistant", "message.content": "Seven."}],
    "attributes.llm.tools": [{"tool.json_schema": json.dumps(LOOK)}],
}  # fmt: skip
GENAI = span(
    **{
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": ASK["content"]}]}]),
        "gen_ai.output.messages": json.dumps(
            [{"role": "assistant", "parts": [{"type": "text", "content": "Seven."}], "finish_reason": "stop"}]
        ),
        "gen_ai.tool.definitions": json.dumps([LOOK]),
    }
)
MESSAGES = {"messages": [ASK, TELL], "tools": [LOOK]}

OWN = of_trajectory(counted("r", "7"), score=Score(rollout_id="r", value=0.5), slot="0/s/0")
OWN_ATIF = to_atif(OWN, agent="answer", version="1").to_json_dict()
OWN_TALK = next(talks(OWN))
OWN_SPANS = [json.loads(s.to_json()) for s in to_spans(OWN, agent="answer", model=None, session="0/s")]


def write(path: Path, *values: Any) -> Path:
    path.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values))
    return path


@pytest.mark.parametrize(
    "value", [OPENINFERENCE, NESTED, TABLE, GENAI, MESSAGES], ids=["flat", "nested", "table", "genai", "messages"]
)
@pytest.mark.parametrize("shape", ["lines", "list", "data"])
def test_one_call_in_every_shape_is_the_same_scenario_and_talk(tmp_path: Path, value: Any, shape: str) -> None:
    whole = {"lines": value, "list": [value], "data": {"data": [value], "next_cursor": None}}[shape]
    file = write(tmp_path / "in.json", whole)
    from_traces(file, tmp_path / "out")

    (scenario,) = scenarios(tmp_path / "out" / "scenarios.jsonl")
    assert (scenario.task, scenario.messages, scenario.tools) == ("How many lamps?", (ASK,), (LOOK,))
    (talk,) = lines(tmp_path / "out" / "talks.jsonl")
    assert (talk["messages"], talk["tools"]) == ([ASK, TELL], [LOOK])


def test_a_trajectory_of_another_origin_is_read_with_its_tokens(tmp_path: Path) -> None:
    (trace,) = read_traces(write(tmp_path / "in.json", ATIF)).traces

    (call,) = trace.calls
    assert (call.tokens.prompt_ids, call.tokens.completions[0].token_ids) == ((1, 2), (3, 4))
    assert call.tokens.completions[0].logprobs == (-0.1, -0.2)
    assert trace.conversations[0].agent == "counter"
    assert trace.conversations[0].messages == (
        {"role": "system", "content": "Count."},
        ASK,
        {
            "role": "assistant", "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"item": "lamps"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
        TELL,
    )  # fmt: skip


def test_copied_context_is_never_learned(tmp_path: Path) -> None:
    from_traces(write(tmp_path / "in.json", ATIF), tmp_path / "out")
    (example,) = examples_of_file(tmp_path / "out" / "talks.jsonl")

    assert [m.get("weight") for m in example.messages if m["role"] == "assistant"] == [None, 0]


def test_an_agent_without_tool_calls_is_told_its_observations_as_a_user(tmp_path: Path) -> None:
    steps = [
        {"step_id": 1, "source": "user", "message": "List the files."},
        {"step_id": 2, "source": "agent", "message": "ls", "observation": {"results": [{"content": "a.txt"}]}},
        {"step_id": 3, "source": "agent", "message": "a.txt"},
    ]
    (trace,) = read_traces(write(tmp_path / "in.json", {**ATIF, "steps": steps})).traces

    assert [(m["role"], m["content"]) for m in trace.conversations[0].messages] == [
        ("user", "List the files."), ("assistant", "ls"), ("user", "a.txt"), ("assistant", "a.txt"),
    ]  # fmt: skip


def test_broken_lines_and_unknown_fields_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    hurt = json.loads(json.dumps(ATIF))
    hurt["steps"][2]["mood"] = hurt["steps"][2]["observation"]["results"][0]["colour"] = "blue"
    file = write(
        tmp_path / "in.jsonl",
        MESSAGES,
        '{"messages": [',
        {"messages": [{"role": "narrator", "content": "Once."}]},
        {**MESSAGES, "temperature": 0.2, "messages": [{**ASK, "mood": "blue"}, TELL]},
        hurt,
        {**ATIF, "steps": [{"step_id": 2, "source": "user", "message": "x"}]},
        {"question": "?"},
        "",
        {**MESSAGES, "messages": []},
    )
    learned = from_traces(file, tmp_path / "out")

    assert [trace.place for trace in learned.read.traces] == ["line 1", "line 4", "line 5"]
    said = "\n".join(learned.read.notes.lines())
    for line in (
        "left out line 2: not JSON",
        "left out line 3: messages[0].role is 'narrator'; expected one of",
        "left out line 6: not a trajectory of ATIF: the trajectory: Value error, steps[0].step_id=2 is not sequential",
        "left out line 7: no known format: it is an object with 'question'",
        "left out line 9: messages is []; expected a list of at least one message",
        "unknown field 'message.mood', ignored: line 4",
        "unknown field 'temperature', ignored: line 4",
        "unknown field 'steps.2.mood', ignored: line 5",
        "unknown field 'steps.2.observation.results.0.colour', ignored: line 5",
    ):
        assert line in said
    assert len(said.splitlines()) == 9


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("", {}, "it is empty"),
        ("hello\n", {}, "left out line 1: not JSON"),
        ('{"a": 1}\n', {}, "no known format: it is an object with 'a'"),
        (json.dumps(MESSAGES), {"format": "atif"}, "It was read as atif, as --format says"),
        (json.dumps(ATIF), {"format": "messages"}, "messages is None; expected a list"),
        ("[1, 2]", {"format": "atif"}, "left out entry 1, entry 2: not a trajectory of ATIF: it is a int"),
        ("5", {"format": "openinference"}, "no span: it is a int"),
        ("[5]", {"format": "messages"}, "messages is 5; expected a list"),
        (json.dumps({"resourceSpans": [7]}), {}, "no span that can be read"),
    ],
)
def test_a_file_in_which_nothing_can_be_read_says_what_is_there(
    tmp_path: Path, content: str, options: Any, said: str
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(content)
    with pytest.raises(ConfigError) as raised:
        from_traces(file, tmp_path / "out", **options)

    assert said in str(raised.value)
    assert "Expected trajectories of ATIF" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_bytes_that_are_no_text_are_one_bad_line(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(MESSAGES).encode() + b"\n\xff\xfe\n" + json.dumps(MESSAGES).encode())
    read = read_traces(file)

    assert [trace.place for trace in read.traces] == ["line 1", "line 3"]
    assert [line.partition(" (")[0] for line in read.notes.lines()] == ["left out line 2: not JSON"]


def test_half_a_surrogate_pair_is_named_and_can_be_written(tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", {"messages": [ASK, {"role": "assistant", "content": "\ud800"}]})
    learned = from_traces(file, tmp_path / "out")

    assert lines(tmp_path / "out" / "talks.jsonl")[0]["messages"][1]["content"] == "�"  # type: ignore[index]
    assert "surrogate" in learned.read.notes.lines()[0]


def test_images_stay_in_scenarios_and_no_talk_is_made_of_them(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    seen = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}
    learned = from_traces(write(tmp_path / "in.jsonl", {"messages": [seen, TELL]}, MESSAGES), tmp_path / "out")

    first, _ = scenarios(tmp_path / "out" / "scenarios.jsonl")
    assert (first.task, first.messages) == ("What is it?", (seen,))
    assert learned.talks == 1
    assert any("a conversation holds image_url" in line for line in learned.read.notes.lines())


def test_attempts_at_one_scenario_are_one_scenario(tmp_path: Path) -> None:
    again = {"messages": [ASK, {"role": "assistant", "content": "Eight."}], "tools": [LOOK]}
    learned = from_traces(write(tmp_path / "in.jsonl", MESSAGES, again), tmp_path / "out")

    assert (learned.scenarios, learned.repeated, learned.talks) == (1, 1, 2)


def test_a_failed_run_is_practised_and_never_imitated(tmp_path: Path) -> None:
    export_traces(write_run(tmp_path / "run"), tmp_path / "out.jsonl", "atif", step=1)
    first, second = lines(tmp_path / "out.jsonl")
    first["extra"]["woodshed"]["about"]["status"] = "failed"  # type: ignore[index]
    learned = from_traces(write(tmp_path / "in.jsonl", first, second), tmp_path / "made")

    assert (learned.scenarios, learned.talks) == (1, 1)
    assert "the run's status is 'failed'" in learned.read.notes.lines()[0]


def test_the_scenarios_are_what_a_training_takes(tmp_path: Path) -> None:
    from_traces(write(tmp_path / "in.jsonl", MESSAGES, ATIF), tmp_path / "out")
    found = scenarios(tmp_path / "out" / "scenarios.jsonl")

    assert all(isinstance(s, Scenario) for s in found)
    assert scenario_ids(found) == [s.id for s in found]
    assert [s.system for s in found] == [None, "Count."]
    assert [s.source for s in found] == ["in.jsonl, line 1", "in.jsonl, line 2"]


def test_scenarios_for_mcp_are_what_its_command_reads(tmp_path: Path) -> None:
    other = {"messages": [{"role": "user", "content": "How many ropes?"}, TELL]}
    from_traces(write(tmp_path / "in.jsonl", MESSAGES, other), tmp_path / "out", for_mcp=True)

    assert sorted(s.task for s in load_mcp(tmp_path / "out" / "scenarios.jsonl")) == [
        "How many lamps?",
        "How many ropes?",
    ]


def test_files_that_were_edited_are_not_replaced(tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", MESSAGES)
    from_traces(file, tmp_path / "out")
    (tmp_path / "out" / "scenarios.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        from_traces(file, tmp_path / "out")

    assert (tmp_path / "out" / "scenarios.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ('{"task": "x"}', "line 1: id: Field required"),
        ("nope", "line 1: the line: Invalid JSON"),
    ],
)
def test_a_scenario_file_that_cannot_be_read_names_the_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "scenarios.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        scenarios(file)


@settings(max_examples=200)
@given(st.data())
def test_no_content_of_any_kind_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bases = [ATIF, MESSAGES, OPENINFERENCE, NESTED, TABLE, GENAI, OWN_ATIF, OWN_TALK, *OWN_SPANS]
    value = json.loads(json.dumps(data.draw(st.sampled_from(bases))))
    spots = list(_spots(value))
    for _ in range(data.draw(st.integers(1, 2))):
        holder, key = data.draw(st.sampled_from(spots))
        holder[key] = data.draw(JSON)
    file = tmp_path_factory.mktemp("in") / "in.jsonl"
    file.write_text(json.dumps(value) + "\n" + json.dumps(MESSAGES) + "\n")
    format = data.draw(st.sampled_from([None, None, None, *Format]))
    try:
        read = read_traces(file, format)
    except ConfigError:
        assert format in (Format.atif, Format.openinference)
        return

    assert format is not None or any(trace.place == "line 2" for trace in read.traces)
    from_traces(file, file.parent / "out", format=format)


def _spots(value: Any) -> Any:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _spots(value[key])
