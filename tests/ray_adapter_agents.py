"""One agent with a tool per way to reach the policy. Rollout workers import this module by name."""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import openai

import woodshed

QUESTION = "What is 1 + 2?"
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def plain(question: str) -> Any:
    here = woodshed.current_rollout()
    assert here is not None
    messages: list[Any] = [{"role": "user", "content": question}]
    async with openai.AsyncOpenAI(base_url=here.base_url, api_key=here.secret) as client:
        first = await client.chat.completions.create(model="m", messages=messages, tools=[TOOL])  # type: ignore[list-item]
        (call,) = first.choices[0].message.tool_calls or ()
        result = add(**json.loads(call.function.arguments))  # type: ignore[union-attr]
        answer = {"role": "tool", "tool_call_id": call.id, "content": str(result)}
        messages += [first.choices[0].message.model_dump(exclude_none=True), answer]
        second = await client.chat.completions.create(model="m", messages=messages, tools=[TOOL])  # type: ignore[list-item]
    return second.choices[0].message.content


@functools.cache
def graph() -> Any:
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI

    from woodshed_langgraph import wrap

    return wrap(create_agent(ChatOpenAI(model="gpt-4o", api_key="author"), [add]))  # type: ignore[arg-type]


async def langgraph(question: str) -> Any:
    state = await graph().ainvoke({"messages": [("user", question)]})
    return state["messages"][-1].content


@functools.cache
def crew_parts() -> Any:
    os.environ.update(
        CREWAI_DISABLE_TELEMETRY="true", CREWAI_DISABLE_TRACKING="true", CREWAI_TRACING_ENABLED="false",
        OTEL_SDK_DISABLED="true",
    )  # fmt: skip
    from crewai import LLM, Agent, Crew, Task
    from crewai.tools import tool

    import woodshed_crewai

    woodshed_crewai.instrument()
    return LLM, Agent, Crew, Task, tool("add")(add)


def crewai(question: str) -> Any:
    LLM, Agent, Crew, Task, tool = crew_parts()
    model = LLM(model="gpt-4o", api_key="author", max_retries=0)
    clerk = Agent(role="Clerk", goal="Answer.", backstory="You count.", llm=model, tools=[tool])
    task = Task(name="answer", description=question, expected_output="A number.", agent=clerk)
    return str(Crew(agents=[clerk], tasks=[task], verbose=False).kickoff())


@functools.cache
def adk_agent() -> Any:
    from google.adk.agents import LlmAgent

    import woodshed_adk

    return woodshed_adk.instrument(LlmAgent(name="clerk", model="gemini-2.5-flash", tools=[add]))


async def adk(question: str) -> Any:
    from google.adk.runners import InMemoryRunner
    from google.genai import types

    runner = InMemoryRunner(agent=adk_agent(), app_name="app")
    await runner.session_service.create_session(app_name="app", user_id="u", session_id="s")
    asked = types.Content(role="user", parts=[types.Part(text=question)])
    said = ""
    async for event in runner.run_async(user_id="u", session_id="s", new_message=asked):
        said = "".join(part.text or "" for part in (event.content.parts if event.content else None) or ()) or said
    return said


AGENTS = {f.__name__: f for f in (plain, langgraph, crewai, adk)}
