"""Every path to a model and to a tool is recorded once, under the right agent and the right parent."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from author_agents import AGENTS, CALLS, QUESTION, Answer, agent, quietly, with_tool
from google.adk.agents import ParallelAgent
from google.adk.agents.run_config import RunConfig, ToolThreadPoolConfig
from google.adk.apps.app import EventsCompactionConfig
from google.adk.models.google_llm import Gemini
from google.adk.tools.agent_tool import AgentTool
from google.adk.workflow import START, FunctionNode, Workflow
from google.genai import types
from running import QUIET, SSE, ask, runner_of

from woodshed.testing import ScriptedEngine, call_tools, in_order, say, scripted_rollout
from woodshed.types import ToolRequest, Trajectory
from woodshed_adk import instrument

pytestmark = QUIET

GEMINI = "gemini-2.5-flash"


async def practised(engine: ScriptedEngine, built: Any, *turns: str, **options: Any) -> Trajectory:
    """Run turns in a rollout and return its trajectory."""
    instrument()
    runner = runner_of(built)
    with scripted_rollout(engine) as rollout:
        for turn in turns or (QUESTION,):
            await ask(runner, turn, **options)
    return engine.trajectory(rollout)


def who(trajectory: Trajectory) -> list[tuple[str | None, int | None]]:
    """Return (agent, number of the parent call) of every call, in order."""
    notes = [call.note for call in trajectory.calls if call.note]
    numbers = {note.call_id: number for number, note in enumerate(notes)}
    return [(note.agent, numbers.get(note.parent_call_id or "")) for note in notes]


WHO = {
    "with_tool": [("adder", None), ("adder", None)],
    "sequential": [("first", None), ("first", None), ("second", None)],
    "parallel": [("worker_a", None), ("worker_b", None), ("worker_c", None)],
    "custom": [("one", None), ("two", None)],
    "transfer": [("front", None), ("specialist", None)],
    "agent_tool": [("boss", None), ("helper", 0), ("helper", 0), ("boss", None)],
    "single_turn": [("boss", None), ("helper", 0), ("boss", None)],
    "task": [("boss", None), ("helper", 0), ("helper", 0), ("boss", None)],
    "graph": [("draft", None), ("polish", None)],
    "fan_graph": [("joker", None)] * 3,
    "compacting": [("adder", None), ("adder", None), ("compaction", None)],
}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("name", WHO)
async def test_every_call_knows_its_agent_and_the_call_it_works_for(
    engine: ScriptedEngine, name: str, streams: bool
) -> None:
    trajectory = await practised(engine, AGENTS[name](GEMINI), run_config=SSE if streams else None)

    agents = who(trajectory)
    assert (sorted(agents, key=str) if name == "parallel" else agents) == WHO[name]
    assert {call.note.author_model for call in trajectory.calls if call.note} == {GEMINI}


@pytest.mark.parametrize("name", AGENTS)
async def test_a_gemini_authors_agents_make_the_same_calls(engine: ScriptedEngine, name: str) -> None:
    assert len((await practised(engine, AGENTS[name](GEMINI))).calls) == CALLS[name]


async def test_a_conversation_extends_the_last_prompt_word_for_word(engine: ScriptedEngine) -> None:
    """ADK keeps arguments as a dict; what the model wrote, spacing and escapes, is what it reads again."""
    odd = '{ "b":2,"a": 1 , "note" : "\\u00e9"}'
    engine.script = in_order(call_tools(ToolRequest(id="c1", name="add", arguments=odd)), say("Three"), say("Bye"))
    trajectory = await practised(engine, with_tool(GEMINI), "first", "second")

    bodies = [seen.body["messages"] for seen in engine.requests]
    assert bodies[1][: len(bodies[0])] == bodies[0]
    assert bodies[1][len(bodies[0])]["tool_calls"][0]["function"]["arguments"] == odd
    assert bodies[2][: len(bodies[1])] == bodies[1]
    prompts = [call.tokens.prompt_ids for call in trajectory.calls]
    answers = [call.tokens.completions[0].token_ids for call in trajectory.calls]
    assert prompts[1][: len(prompts[0] + answers[0])] == prompts[0] + answers[0]
    assert prompts[2][: len(prompts[1] + answers[1])] == prompts[1] + answers[1]


async def test_each_turn_keeps_its_own_words_where_the_model_numbers_its_calls_anew(engine: ScriptedEngine) -> None:
    """`functions.add:0` again in a later turn, and again in the next question: ids that hold for one turn only."""
    written = ['{"a": 1, "b": 2}', '{"b":2,"a":1}', '{ "a": 1,  "b": 2 }', '{"a": 3, "b": 4}']
    calls = [call_tools(ToolRequest(id="functions.add:0", name="add", arguments=text)) for text in written]
    engine.script = in_order(calls[0], calls[1], say("Three"), calls[2], calls[3], say("Seven"))
    trajectory = await practised(engine, with_tool(GEMINI), "first", "second")

    bodies = [seen.body["messages"] for seen in engine.requests]
    for shorter, longer in itertools.pairwise(bodies):
        assert longer[: len(shorter)] == shorter
    asked = [message["tool_calls"][0]["function"]["arguments"] for message in bodies[-1] if message.get("tool_calls")]
    assert asked == written
    assert [m["content"] for m in bodies[-1] if m["role"] == "tool"] == ['{"result": 3}'] * 3 + ['{"result": 7}']
    assert [tool.result for tool in trajectory.tool_calls] == ['{"result": 3}'] * 3 + ['{"result": 7}']


async def test_a_tool_belongs_to_the_call_of_its_own_agent_though_another_gave_the_same_id(
    engine: ScriptedEngine,
) -> None:
    def clerk(request: dict[str, Any]) -> Any:
        if request["messages"][-1]["role"] == "tool":
            return say("done")
        system = request["messages"][0]["content"]
        if "I am helper" in system:
            return say("helped")
        return call_tools(ToolRequest(id="functions.helper:0", name="helper", arguments='{"request": "x"}'))

    engine.script = clerk
    bosses = [
        agent(GEMINI, name, f"I am {name}", tools=[AgentTool(agent(GEMINI, "helper", "I am helper"))])
        for name in ("one", "two")
    ]
    trajectory = await practised(engine, quietly(ParallelAgent, name="fan", sub_agents=bosses))

    notes = {call.note.call_id: call.note for call in trajectory.calls if call.note}
    parents = [notes[note.parent_call_id].agent for note in notes.values() if note.parent_call_id]
    assert sorted(map(str, parents)) == ["one", "two"]


async def test_an_answer_that_a_callback_rewrote_is_sent_as_rewritten(engine: ScriptedEngine) -> None:
    await practised(engine, AGENTS["callbacks"](GEMINI), "first", "second")

    assistants = [message for message in engine.requests[-1].body["messages"] if message["role"] == "assistant"]
    assert [message["content"] for message in assistants] == [None, "Forty-one!"]


async def test_a_response_schema_reaches_the_engine_whichever_way_it_is_written(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say('{"text": "three"}')
    for written in (Answer, list[Answer], {"type": "OBJECT", "properties": {"text": {"type": "STRING"}}}):
        await practised(engine, agent(GEMINI, "structured", output_schema=written))
    google = types.Schema(type=types.Type.OBJECT, properties={"text": types.Schema(type=types.Type.STRING)})
    await practised(engine, agent(GEMINI, "structured", output_schema=google))

    forms = [seen.body["response_format"]["json_schema"]["schema"] for seen in engine.requests]
    assert [form["type"] for form in forms] == ["object", "array", "object", "object"]
    assert forms[0]["properties"]["text"]["type"] == forms[3]["properties"]["text"]["type"] == "string"
    trajectory = await practised(engine, agent(GEMINI, "structured", output_schema=Answer))
    assert [call.tokens.constrained for call in trajectory.calls] == [True]


async def test_tool_choice_is_the_authors(engine: ScriptedEngine) -> None:
    def forced(mode: str, names: list[str] | None = None) -> Any:
        calling = types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode(mode), allowed_function_names=names)
        config = types.GenerateContentConfig(tool_config=types.ToolConfig(function_calling_config=calling))
        return agent(GEMINI, "adder", tools=AGENTS["parallel_tools"](GEMINI).tools, generate_content_config=config)

    for built in (forced("AUTO"), forced("ANY"), forced("ANY", ["add"]), forced("NONE")):
        await practised(engine, built)

    choices = [(seen.body.get("tool_choice"), len(seen.body["tools"])) for seen in engine.requests]
    named = {"type": "function", "function": {"name": "add"}}
    assert choices == [(None, 2), ("required", 2), (named, 1), ("none", 2)]


async def test_a_tool_in_adks_thread_pool_is_recorded_like_any_other(engine: ScriptedEngine) -> None:
    pooled = RunConfig(tool_thread_pool_config=ToolThreadPoolConfig(max_workers=2))
    trajectory = await practised(engine, AGENTS["agent_tool"](GEMINI), run_config=pooled)

    assert who(trajectory) == WHO["agent_tool"]
    assert [(tool.name, tool.agent) for tool in trajectory.tool_calls] == [("helper", "boss"), ("add", "helper")]


async def test_an_agent_that_a_node_starts_while_it_runs_is_recorded(engine: ScriptedEngine) -> None:
    inner = agent(GEMINI, "inner")

    async def outer(ctx: Any, node_input: Any) -> str:
        return str(await ctx.run_node(inner, "from the node"))

    graph = Workflow(name="graph", edges=[(START, FunctionNode(func=outer, name="outer", rerun_on_resume=True))])
    trajectory = await practised(engine, graph)

    assert who(trajectory) == [("inner", None)]


async def test_the_policy_writes_a_compactions_summary_and_the_authors_summarizer_stays_his(
    engine: ScriptedEngine,
) -> None:
    app = AGENTS["compacting"](Gemini(model=GEMINI))
    instrument(app.root_agent)
    runner = runner_of(app)
    with scripted_rollout(engine) as rollout:
        await ask(runner, QUESTION)

    assert engine.trajectory(rollout).calls[-1].note.agent == "compaction"  # type: ignore[union-attr]
    config: EventsCompactionConfig = app.events_compaction_config
    assert isinstance(config.summarizer._llm, Gemini)  # type: ignore[union-attr]


async def test_logprobs_are_the_agents_only_where_its_author_asked(engine: ScriptedEngine) -> None:
    asked = agent(GEMINI, "asked", generate_content_config=types.GenerateContentConfig(response_logprobs=True))
    await practised(engine, asked)
    await practised(engine, agent(GEMINI, "plain"))

    assert [seen.body.get("logprobs") for seen in engine.requests] == [True, None]
