"""Agents as their authors write them, knowing nothing of woodshed, and the clerk that answers their calls."""

from __future__ import annotations

import json
import re
import warnings
import zlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import openai
from google.adk.agents import BaseAgent, LlmAgent, LoopAgent, ParallelAgent, SequentialAgent
from google.adk.agents.invocation_context import InvocationContext
from google.adk.apps.app import App, EventsCompactionConfig, ResumabilityConfig
from google.adk.events.event import Event
from google.adk.integrations.openai import OpenAILlm
from google.adk.planners import PlanReActPlanner
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.plugins.reflect_retry_tool_plugin import ReflectAndRetryToolPlugin
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.exit_loop_tool import exit_loop
from google.adk.tools.long_running_tool import LongRunningFunctionTool
from google.adk.tools.tool_context import ToolContext
from google.adk.workflow import START, JoinNode, Workflow, node
from google.genai import types
from pydantic import BaseModel, Field

from woodshed.testing import Reply, call_tools, say
from woodshed.types import ToolRequest

QUESTION = "What is 1 + 2?"


class Answer(BaseModel):
    """The final answer."""

    text: str = Field(description="the answer in words")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def broken(x: int) -> int:
    """Always fails."""
    raise ZeroDivisionError(f"no {x}")


def note(text: str, tool_context: ToolContext) -> dict[str, str]:
    """Keep a note."""
    tool_context.state["note"] = text
    return {"kept": text}


def ticket(subject: str) -> None:
    """Open a ticket, which takes a while."""


def clerk(request: dict[str, Any]) -> Reply:
    """Follow the plan in the instruction, one step an answer: `tool {json} & tool {json}`, or words to say.

    Without a plan: echo. A function of the request alone.
    """
    messages = request["messages"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    last = messages[-1]["content"]
    plan = re.search(r"PLAN: (.*)", system)
    if plan is None:
        return say(f"You said: {last}")
    steps = plan.group(1).split(" | ")
    done = sum(message["role"] == "assistant" for message in messages)
    step = steps[min(done, len(steps) - 1)]
    if not re.match(r"\w+ \{", step):
        return say(step)
    named = zlib.crc32(f"{system}{last}".encode())
    calls = [part.split(" ", 1) for part in step.split(" & ")]
    requests = (
        ToolRequest(id=f"call_{named:x}_{done}_{index}", name=name, arguments=arguments)
        for index, (name, arguments) in enumerate(calls)
    )
    return call_tools(*requests)


def author_model(base_url: str, **settings: Any) -> OpenAILlm:
    """Return the author's own model, which keeps no connection open behind a test."""
    plain = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0))
    client = openai.AsyncOpenAI(base_url=base_url, api_key="author", http_client=plain, max_retries=0)
    return OpenAILlm(model="gpt-4o-mini", client=client, **settings)


def agent(model: Any, name: str, plan: str = "", **options: Any) -> LlmAgent:
    return LlmAgent(name=name, model=model, instruction=f"PLAN: {plan}" if plan else "Answer.", **options)


def quietly(build: Callable[..., Any], **options: Any) -> Any:
    """Build what ADK warns about: the agents `Workflow` is to replace one day, and what it calls experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(**options)


def with_tool(model: Any) -> Any:
    return agent(model, "adder", 'add {"a": 1, "b": 2} | It is three', tools=[add])


def parallel_tools(model: Any) -> Any:
    plan = 'add {"a": 1, "b": 2} & add {"a": 3, "b": 4} & note {"text": "hm"} | Three and seven'
    return agent(model, "adder", plan, tools=[add, note], output_key="answer")


def schema(model: Any) -> Any:
    return agent(model, "structured", '{"text": "three"}', output_schema=Answer, output_key="answer")


def schema_and_tools(model: Any) -> Any:
    plan = 'add {"a": 1, "b": 2} | set_model_response {"text": "three"}'
    return agent(model, "structured", plan, tools=[add], output_schema=Answer, output_key="answer")


def sequential(model: Any) -> Any:
    steps = [
        agent(model, "first", 'add {"a": 1, "b": 2} | Three', tools=[add]),
        agent(model, "second", "Done: {note?}"),
    ]
    return quietly(SequentialAgent, name="line", sub_agents=steps)


def parallel(model: Any) -> Any:
    return quietly(
        ParallelAgent, name="fan", sub_agents=[agent(model, f"worker_{letter}", f"I am {letter}") for letter in "abc"]
    )


def loop(model: Any) -> Any:
    refine = agent(model, "refiner", "draft one | draft two | exit_loop {} | never", tools=[exit_loop])
    return quietly(LoopAgent, name="loop", sub_agents=[refine], max_iterations=4)


class Twice(BaseAgent):
    """Asks its two agents in turn, and stops by itself."""

    one: LlmAgent
    two: LlmAgent

    async def _run_async_impl(self, ctx: InvocationContext) -> AsyncGenerator[Event, None]:
        for inner in (self.one, self.two):
            async for event in inner.run_async(ctx):
                yield event


def custom(model: Any) -> Any:
    one, two = agent(model, "one", "first"), agent(model, "two", "second")
    return Twice(name="twice", one=one, two=two, sub_agents=[one, two])


def transfer(model: Any) -> Any:
    child = agent(model, "specialist", "I know: three", description="Knows sums.")
    return agent(model, "front", 'transfer_to_agent {"agent_name": "specialist"} | done', sub_agents=[child])


def agent_tool(model: Any) -> Any:
    helper = agent(model, "helper", 'add {"a": 1, "b": 2} | Three, says the helper', tools=[add])
    return agent(model, "boss", 'helper {"request": "sum up"} | The helper said three', tools=[AgentTool(helper)])


def single_turn(model: Any) -> Any:
    helper = agent(model, "helper", "Three", mode="single_turn", description="Adds.")
    return agent(model, "boss", 'helper {"request": "sum up"} | The helper said three', sub_agents=[helper])


def task(model: Any) -> Any:
    plan = 'add {"a": 1, "b": 2} | finish_task {"result": "three"}'
    helper = agent(model, "helper", plan, mode="task", tools=[add], description="Adds.")
    return agent(model, "boss", 'helper {"request": "sum up"} | The task is done', sub_agents=[helper])


def graph(model: Any) -> Any:
    def shout(node_input: Any) -> str:
        return str(node_input).upper()

    first = agent(model, "draft", "a draft")
    return Workflow(name="graph", edges=[(START, first, shout, agent(model, "polish"))])


def fan_graph(model: Any) -> Any:
    join = JoinNode(name="join")

    def topics(node_input: Any) -> list[str]:
        return ["cats", "dogs", "fish"]

    def count(node_input: Any) -> str:
        return f"{len(node_input)} jokes"

    jokes = node(agent(model, "joker"), parallel_worker=True)
    return Workflow(name="graph", edges=[(START, topics, jokes, join, count)])


def callbacks(model: Any) -> Any:
    def before(callback_context: Any, llm_request: Any) -> None:
        callback_context.state["before"] = callback_context.state.get("before", 0) + 1
        llm_request.append_instructions(["Be kind."])

    def after(callback_context: Any, llm_response: Any) -> Any:
        callback_context.state["after"] = callback_context.state.get("after", 0) + 1
        if llm_response.partial or not llm_response.content or not llm_response.content.parts[0].text:
            return None
        llm_response.content.parts[0].text += "!"
        return llm_response

    def before_tool(tool: Any, args: dict[str, Any], tool_context: Any) -> None:
        args["b"] = 40

    def after_tool(tool: Any, args: dict[str, Any], tool_context: Any, tool_response: Any) -> Any:
        return {"sum": tool_response}

    return agent(
        model,
        "polite",
        'add {"a": 1, "b": 2} | Forty-one',
        tools=[add],
        before_model_callback=before,
        after_model_callback=after,
        before_tool_callback=before_tool,
        after_tool_callback=after_tool,
    )


def short_cut(model: Any) -> Any:
    def before(callback_context: Any, llm_request: Any) -> Any:
        from google.adk.models.llm_response import LlmResponse

        return LlmResponse(content=types.Content(role="model", parts=[types.Part(text="from a cache")]))

    return agent(model, "cached", "never asked", before_model_callback=before)


def planner(model: Any) -> Any:
    return agent(model, "planner", "/*PLANNING*/ add /*FINAL_ANSWER*/ three", planner=PlanReActPlanner())


def unknown_tool(model: Any) -> Any:
    return agent(model, "confused", 'multiply {"a": 1} | Never mind', tools=[add])


def failing_tool(model: Any) -> Any:
    return agent(model, "unlucky", 'broken {"x": 4} | never', tools=[broken])


def long_running(model: Any) -> Any:
    return agent(model, "target", 'ticket {"subject": "x"} | Opened', tools=[LongRunningFunctionTool(ticket)])


class Counting(BasePlugin):
    """Counts what passes by."""

    async def before_model_callback(self, *, callback_context: Any, llm_request: Any) -> None:
        callback_context.state["asked"] = callback_context.state.get("asked", 0) + 1

    async def after_tool_callback(self, *, tool: Any, tool_args: Any, tool_context: Any, result: Any) -> None:
        tool_context.state["told"] = json.dumps(result)


def plugins(model: Any) -> Any:
    root = agent(model, "unlucky", 'broken {"x": 4} | add {"a": 1, "b": 2} | Three', tools=[broken, add])
    return App(name="app", root_agent=root, plugins=[Counting(name="counting"), ReflectAndRetryToolPlugin()])


def resumable(model: Any) -> Any:
    return App(
        name="app", root_agent=sequential(model), resumability_config=quietly(ResumabilityConfig, is_resumable=True)
    )


def compacting(model: Any) -> Any:
    compaction = quietly(EventsCompactionConfig, compaction_interval=1, overlap_size=0)
    return App(name="app", root_agent=with_tool(model), events_compaction_config=compaction)


AGENTS: dict[str, Callable[[Any], Any]] = {
    build.__name__: build
    for build in (
        with_tool, parallel_tools, schema, schema_and_tools, sequential, parallel, loop, custom, transfer, agent_tool,
        single_turn, task, graph, fan_graph, callbacks, short_cut, planner, unknown_tool, failing_tool, long_running,
        plugins, resumable, compacting,
    )
}  # fmt: skip
CALLS = {
    "with_tool": 2, "parallel_tools": 2, "schema": 1, "schema_and_tools": 2, "sequential": 3, "parallel": 3, "loop": 3,
    "custom": 2, "transfer": 2, "agent_tool": 4, "single_turn": 3, "task": 4, "graph": 2, "fan_graph": 3,
    "callbacks": 2, "short_cut": 0, "planner": 1, "unknown_tool": 2, "failing_tool": 1, "long_running": 1,
    "plugins": 3, "resumable": 3, "compacting": 3,
}  # fmt: skip
"""How many model calls one run of each agent makes."""
