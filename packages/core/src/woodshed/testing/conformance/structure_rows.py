"""Rows about structure: typed answers, streams, tool choice, tools, and who made which call."""

# ruff: noqa: D102 - the name of a test is its promise

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel, Field

from woodshed.testing.conformance.adapter import AnswerMode
from woodshed.testing.conformance.rows import Rows, each_way, look, system_of, tool_texts, turn_of
from woodshed.testing.conformance.token_rows import team_script
from woodshed.testing.conformance.truth import assert_faithful, trained_text
from woodshed.testing.replies import Reply, Script, call_tool, call_tools, in_order, say
from woodshed.types import Message, ToolRequest


class Town(BaseModel):
    """A town and its people."""

    name: str = Field(description="the town's name")
    people: int = Field(description="how many live there")


TOWN = {"name": "Oslo", "people": 7}


def broken(item: str) -> str:
    """Say how many of an item there are, or try to."""
    raise ZeroDivisionError(f"no {item} today")


class StructureRows(Rows):
    """Rows 3 to 7 and 13."""

    @each_way
    @pytest.mark.parametrize("mode", ["tool", "json_schema", "raw"])
    def test_row_03_structured_output_is_parsed_and_recorded(self, way: str, mode: AnswerMode) -> None:
        agent = self.assistant(self.author.base_url, answer=Town, mode=mode)
        script = _typed if mode != "tool" else _typed_by_tool
        alone = self.unhooked(script, lambda: self.go(way, agent, "Which town?"))
        trajectory, outcome = self.practise(script, lambda: self.go(way, agent, "Which town?"))

        assert outcome.parsed == alone.parsed == TOWN
        if mode == "raw":
            assert json.loads(outcome.raw or "") == TOWN
        wanted = [served.body.get("response_format", {}).get("type") for served in self.engine.requests]
        assert mode != "json_schema" or "json_schema" in wanted
        assert mode != "tool" or any(_town_tool(served.body) for served in self.engine.requests)
        _assert_constrained_as_asked(self, trajectory)

    def test_row_04_a_stream_with_tool_call_deltas_records_what_the_whole_answers_record(self) -> None:
        agent = self.assistant(self.author.base_url, tools=[look])
        whole, _ = self.practise(_look_then_tell, lambda: self.run(agent, "How many lamps?"))
        streamed, read = self.practise(_look_then_tell, lambda: asyncio.run(self.stream(agent, "How many lamps?")))

        assert "".join(read.pieces).endswith("There are seven of them, I think.")
        assert len([piece for piece in read.pieces if piece]) >= 3
        assert all(served.body.get("stream") for served in self.engine.requests)
        assert [c.tokens.completions for c in streamed.calls] == [c.tokens.completions for c in whole.calls]
        assert [c.tokens.prompt_ids for c in streamed.calls] == [c.tokens.prompt_ids for c in whole.calls]
        told = [(t.tool_call_id, t.name, t.arguments, t.result) for t in streamed.tool_calls]
        assert told == [(t.tool_call_id, t.name, t.arguments, t.result) for t in whole.tool_calls]
        assert len(assert_faithful(streamed, self.engine.requests)) == 1

    @pytest.mark.parametrize("choice", ["required", "look", "none"])
    def test_row_05_the_tool_choice_reaches_the_model_and_marks_constrained_answers(self, choice: str) -> None:
        agent = self.assistant(self.author.base_url, tools=[look], tool_choice=choice)
        called = call_tool("look", id="c1", item="lamps")
        script = in_order(say("no tool") if choice == "none" else called, say("done"))
        trajectory, _ = self.practise(script, lambda: self.run(agent, "How many lamps?"))

        asked = self.engine.requests[0].body
        named = {"type": "function", "function": {"name": "look"}}
        assert asked.get("tool_choice") == (named if choice == "look" else choice)
        assert [t.result is not None for t in trajectory.tool_calls] == ([] if choice == "none" else [True])
        assert trajectory.calls[0].tokens.constrained is (choice != "none")
        _assert_constrained_as_asked(self, trajectory)

    @each_way
    def test_row_06_three_parallel_tool_calls_of_one_message_are_three_records(self, way: str) -> None:
        items = ("lamps", "ropes", "bells")
        requests = [ToolRequest(id=f"call_{i}", name="look", arguments=json.dumps({"item": i})) for i in items]
        agent = self.assistant(self.author.base_url, tools=[look])
        script = in_order(call_tools(*requests), say("all counted"))
        trajectory, _ = self.practise(script, lambda: self.go(way, agent, "How many?"))

        recorded = {t.tool_call_id: (t.name, t.arguments, t.error) for t in trajectory.tool_calls}
        assert recorded == {f"call_{i}": ("look", {"item": i}, None) for i in items}
        assert all(f"7 of {(t.arguments or {}).get('item')}" in (t.result or "") for t in trajectory.tool_calls)
        answered = [m for m in trajectory.calls[1].tokens.messages if m.role == "tool"]
        assert {m.tool_call_id for m in answered} == set(recorded)
        assert all(f"7 of {(m.tool_call_id or '')[5:]}" in (m.content or "") for m in answered)
        (row,) = assert_faithful(trajectory, self.engine.requests)
        assert trained_text(row).count("look(") == 3

    @each_way
    def test_row_07_a_tool_that_raises_is_told_as_the_framework_tells_it_and_kept_as_it_was(self, way: str) -> None:
        agent = self.assistant(self.author.base_url, tools=[broken])
        script: Script = _break_then_tell
        self.unhooked(script, lambda: self.go(way, agent, "How many lamps?"))
        alone = [list(tool_texts(request)) for request in self.author.asked]
        trajectory, outcome = self.practise(script, lambda: self.go(way, agent, "How many lamps?"))

        told = [list(tool_texts(request)) for request in self.engine.vllm.asked]
        assert told == alone
        assert "no lamps today" in told[-1][-1]
        assert outcome.text == "I cannot tell."
        tool = trajectory.tool_calls[-1]
        assert tool.error is not None
        assert (tool.name, tool.arguments, tool.error.kind) == ("broken", {"item": "lamps"}, "ZeroDivisionError")
        assert tool.error.message == "no lamps today"
        assert _as_data(tool.result) == _as_data(told[-1][-1])
        # The error's text is context, never trained.
        assert not any("today" in trained_text(row) for row in assert_faithful(trajectory, self.engine.requests))

    @each_way
    def test_row_13_calls_of_nested_and_parallel_agents_name_their_agent_and_their_parent(self, way: str) -> None:
        agent = self.team(self.author.base_url, tools=[look])
        trajectory, _ = self.practise(team_script(self), lambda: self.go(way, agent, "Count everything."))

        seen = {name: [c for c in trajectory.calls if _speaks(c.tokens.messages, name)] for name in NAMES}
        for name, calls in seen.items():
            assert [c.note.agent for c in calls if c.note] == [name] * 10
        asking = [c for c in seen["planner"] if len(c.tokens.completions[0].message.tool_requests) == 2]
        assert [c.note.parent_call_id for c in seen["planner"] if c.note] == [None] * 10
        for name in ("red", "blue"):
            assert {c.note.parent_call_id for c in seen[name] if c.note} == {asking[0].tokens.call_id}
        counted = [(t.agent, (t.arguments or {}).get("item", "").split("-")[0]) for t in trajectory.tool_calls]
        assert all(agent == owner for agent, owner in counted if owner in NAMES)

    @each_way
    def test_row_13_calls_before_and_after_a_transfer_name_their_agent(self, way: str) -> None:
        agent = self.handoff(self.author.base_url)
        trajectory, outcome = self.practise(_handing_over(self), lambda: self.go(way, agent, "Where is my parcel?"))

        assert outcome.text == "It is on its way."
        names = [("clerk" if _speaks(c.tokens.messages, "clerk") else "front") for c in trajectory.calls]
        assert names == ["front", "clerk"]
        assert [c.note.agent for c in trajectory.calls if c.note] == names
        assert_faithful(trajectory, self.engine.requests)


NAMES = ("planner", "red", "blue")


def _assert_constrained_as_asked(rows: Rows, trajectory: Any) -> None:
    """Answers under a grammar are kept out of training; the others are trained."""
    for call, served in zip(trajectory.calls, rows.engine.requests, strict=True):
        choice, form = served.body.get("tool_choice", "auto"), served.body.get("response_format")
        assert call.tokens.constrained is (form is not None or choice == "required" or isinstance(choice, dict))
    trained = {i for row in assert_faithful(trajectory, rows.engine.requests) for i in row.call_ids if i}
    assert trained == {c.tokens.call_id for c in trajectory.calls if not c.tokens.constrained}


def _typed(request: dict[str, Any]) -> Reply:
    """Answer in the form that is asked for: by the tool that takes a town, until it has answered, else as JSON."""
    last, name = request["messages"][-1], _town_tool(request)
    if name is not None and not request.get("response_format") and last["role"] != "tool":
        return call_tools(ToolRequest(id="c1", name=name, arguments=json.dumps(TOWN)))
    return say(json.dumps(TOWN))


def _typed_by_tool(request: dict[str, Any]) -> Reply:
    """Answer in prose where no form is asked for: some frameworks then ask for it by a tool."""
    return _typed(request) if _town_tool(request) or request.get("response_format") else say("It is Oslo.")


def _town_tool(request: dict[str, Any]) -> str | None:
    functions = [tool["function"] for tool in request.get("tools") or ()]
    return next((f["name"] for f in functions if '"people"' in json.dumps(f.get("parameters"))), None)


def _look_then_tell(request: dict[str, Any]) -> Reply:
    if turn_of(request) == 0:
        return call_tool("look", id="call_lamps", item="lamps")
    return say("There are seven of them, I think.")


def _break_then_tell(request: dict[str, Any]) -> Reply:
    if turn_of(request) == 0:
        return call_tool("broken", id="call_lamps", item="lamps")
    return say("I cannot tell.")


def _handing_over(rows: Rows) -> Script:
    def script(request: dict[str, Any]) -> Reply:
        return say("It is on its way.") if "You are clerk." in system_of(request) else rows.transfer()

    return script


def _speaks(messages: tuple[Message, ...], name: str) -> bool:
    return any(m.role == "system" and f"You are {name}." in (m.content or "") for m in messages)


def _as_data(told: str | None) -> Any:
    """Return a tool's text by its content: a converter may space JSON in its own way."""
    try:
        return json.loads(told or "")
    except ValueError:
        return told
