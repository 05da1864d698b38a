"""What goes out comes back: the same training rows and the same conversations, whatever was said in them."""

from __future__ import annotations

import json

import pytest
from builders import asked, call, said, trajectory
from hypothesis import given, settings
from rollouts_drawn import SCORES, rows_of, trajectories

from woodshed.traces.atif_models import Trajectory as Atif
from woodshed.traces.conversation import Trace
from woodshed.traces.files import json_line
from woodshed.traces.from_atif import from_atif
from woodshed.traces.from_spans import from_spans
from woodshed.traces.messages import from_messages, talks
from woodshed.traces.notes import Notes
from woodshed.traces.of_trajectory import of_trajectory
from woodshed.traces.otlp import otlp_json
from woodshed.traces.span_records import span_records
from woodshed.traces.to_atif import to_atif
from woodshed.traces.to_spans import to_spans
from woodshed.types import CallMetadata, Message, ModelCall, Score, ToolCall, ToolRequest, Trajectory


def by_atif(trace: Trace) -> tuple[Trace, Notes]:
    (line,) = json_line(to_atif(trace, agent="answer", version="1", model="m").to_json_dict()).splitlines()
    assert Atif.model_validate_json(line).schema_version == "ATIF-v1.8"
    notes = Notes()
    back = from_atif(json.loads(line), "line 1", notes)
    assert back is not None
    return back, notes


def by_spans(trace: Trace) -> tuple[Trace, Notes]:
    spans = to_spans(trace, agent="answer", model="m", session="0/s")
    line = json_line(otlp_json(spans))
    notes = Notes()
    (back,) = from_spans(span_records(json.loads(line), "line 1"), notes)
    return back, notes


def flat(trace: Trace) -> list[object]:
    return [(c.id, c.agent, c.parent_call_id, c.messages, c.tools) for c in trace.conversations]


@settings(max_examples=60)
@given(trajectories(), SCORES)
def test_atif_brings_back_every_row_and_every_talk(rollout: Trajectory, score: Score | None) -> None:
    trace = of_trajectory(rollout, score=score, slot="3/s/0")
    if not trace.conversations:
        return
    back, notes = by_atif(trace)

    assert rows_of(back.calls) == rows_of(rollout.calls)
    assert list(talks(back)) == list(talks(trace))
    assert flat(back) == flat(trace)
    assert [(t.sampled, t.learnable, t.completion) for c in back.conversations for t in c.turns] == [
        (t.sampled, t.learnable, t.completion) for c in trace.conversations for t in c.turns
    ]
    assert notes.lines() == []


@settings(max_examples=60)
@given(trajectories())
def test_every_answer_is_in_one_conversation_after_exactly_what_it_answered(rollout: Trajectory) -> None:
    trace = of_trajectory(rollout)

    told = [turn.call.tokens.call_id for c in trace.conversations for turn in c.turns if turn.call is not None]
    assert sorted(told) == sorted(call.tokens.call_id for call in rollout.calls if call.tokens.completions)
    for conversation in trace.conversations:
        for place, turn in enumerate(conversation.turns):
            if turn.call is not None:
                assert place == len(turn.call.tokens.messages)


@settings(max_examples=60)
@given(trajectories(), SCORES)
def test_spans_bring_back_every_row(rollout: Trajectory, score: Score | None) -> None:
    trace = of_trajectory(rollout, score=score)
    if not any(call.tokens.messages for call in rollout.calls) or not trace.conversations:
        return
    back, notes = by_spans(trace)

    assert rows_of(back.calls) == rows_of(rollout.calls)
    assert notes.skipped == {}


@settings(max_examples=60)
@given(trajectories())
def test_lines_of_messages_bring_back_what_is_learned_and_what_is_context(rollout: Trajectory) -> None:
    trace = of_trajectory(rollout)
    for line in talks(trace):
        notes = Notes()
        back = from_messages(json.loads(json_line(line)), "line 1", notes)

        assert back is not None
        assert [again["messages"] for again in talks(back)] == [line["messages"]]
        assert notes.lines() == []


USER = Message(role="user", content="How many lamps?")
THREE = Message(
    role="assistant",
    tool_requests=tuple(ToolRequest(id=f"c{k}", name="look", arguments='{"item":"x"}') for k in range(3)),
)


def results(*ids: str) -> tuple[Message, ...]:
    return tuple(Message(role="tool", content=f"7 of {id}", tool_call_id=id) for id in ids)


def test_parallel_tool_calls_have_their_results_beside_them_in_one_step() -> None:
    again = (USER, THREE, *results("c2", "c0", "c1"))
    rollout = trajectory("r", call(THREE, call_id="a", messages=(USER,)), call(said("21"), call_id="b", messages=again))
    steps = to_atif(of_trajectory(rollout), agent="answer", version="1").steps

    assert [step.source for step in steps] == ["user", "agent", "agent"]
    assert [t.tool_call_id for t in steps[1].tool_calls or ()] == ["c0", "c1", "c2"]
    assert steps[1].observation is not None
    assert [(r.source_call_id, r.content) for r in steps[1].observation.results] == [
        ("c2", "7 of c2"), ("c0", "7 of c0"), ("c1", "7 of c1"),
    ]  # fmt: skip


def test_results_that_no_call_read_are_told_by_the_recorded_tool_calls() -> None:
    told = ToolCall(tool_call_id="c1", name="look", arguments={}, result="7")
    rollout = trajectory("r", call(asked("look"), messages=(USER,))).model_copy(update={"tool_calls": (told,)})

    assert of_trajectory(rollout).conversations[0].messages[-1] == {
        "role": "tool", "tool_call_id": "c1", "content": "7",
    }  # fmt: skip


def test_an_answer_that_was_thrown_away_is_a_conversation_that_nothing_is_learned_from() -> None:
    bad = call(said("bad"), call_id="a", superseded=True)
    good = call(said("good"), call_id="b")
    trace = of_trajectory(trajectory("r", bad, good))

    assert [c.messages[-1]["content"] for c in trace.conversations] == ["good", "bad"]
    assert [line["messages"][-1]["content"] for line in talks(trace)] == ["good"]


def test_an_agent_that_takes_over_a_history_has_a_conversation_of_its_own() -> None:
    def by(agent: str, made: ModelCall) -> ModelCall:
        return made.model_copy(update={"note": CallMetadata(call_id=made.tokens.call_id, agent=agent)})

    first = by("front", call(said("over to the clerk"), call_id="a", messages=(USER,)))
    then = by("clerk", call(said("7"), call_id="b", messages=(USER, said("over to the clerk"), USER)))
    trace = of_trajectory(trajectory("r", first, then))

    assert [(c.agent, len(c.turns)) for c in trace.conversations] == [("front", 2), ("clerk", 4)]
    lines = [[m.get("weight") for m in line["messages"] if m["role"] == "assistant"] for line in talks(trace)]
    assert lines == [[None], [0, None]]


def test_an_answer_that_was_cut_off_is_context() -> None:
    cut = call(said("half a"), call_id="a", messages=(USER,), finish_reason="length")
    then = call(said("whole"), call_id="b", messages=(USER, said("half a"), USER))
    (line,) = talks(of_trajectory(trajectory("r", cut, then)))

    assert [(m["content"], m.get("weight")) for m in line["messages"] if m["role"] == "assistant"] == [
        ("half a", 0), ("whole", None),
    ]  # fmt: skip


@pytest.mark.parametrize("score", [0.0, 0.25])
def test_the_score_is_the_reward_of_the_trajectory(score: float) -> None:
    trace = of_trajectory(trajectory("r", call(said("7"))), score=Score(rollout_id="r", value=score))
    metrics = to_atif(trace, agent="answer", version="1").final_metrics

    assert metrics is not None and metrics.extra is not None
    assert metrics.extra["reward"] == score
