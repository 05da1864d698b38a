"""Crews as their authors write them, and the rules by which a model answers them."""

from __future__ import annotations

import re
from typing import Any

from crewai import LLM, Agent, Crew, Process, Task
from crewai.flow.flow import Flow, listen, start
from crewai.tools import tool
from pydantic import BaseModel

from woodshed.testing import Reply, call_tool, say

QUESTION = {"question": "What is 1 + 2?"}


class Answer(BaseModel):
    number: int


@tool("add")
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def clerk(request: dict[str, Any]) -> Reply:
    """Answer as a pure function of the request, so that two runs of one crew see the same."""
    messages, tools = request["messages"], {t["function"]["name"] for t in request.get("tools") or ()}
    text = "\n".join(m["content"] or "" for m in messages)
    asked = _asked(text)
    if request.get("response_format"):
        return say('{"number": 3}')
    if "delegate_work_to_coworker" in tools and messages[-1]["role"] != "tool":
        return call_tool(
            "delegate_work_to_coworker", id="call_delegate", task=asked, context="none", coworker="Calculator"
        )
    if "add" in tools and messages[-1]["role"] != "tool":
        return call_tool("add", id="call_add", a=1, b=2)
    if "Action Input:" in text and messages[-1]["content"].startswith("\nCurrent Task"):
        return say('Thought: add\nAction: add\nAction Input: {"a": 1, "b": 2}\nObservation: 99')
    if "Action Input:" in text:
        return say(f"Thought: I now know\nFinal Answer: 3 for {asked}")
    return say(f"3 for {asked}")


def _asked(text: str) -> str:
    questions = re.findall(r"(?:What is|question-)[^\n?]*\??", text)
    return questions[-1] if questions else "nothing"


def llm(base_url: str, **settings: Any) -> LLM:
    """The author's own model, which happens to live on the same server.

    Its client keeps no connection: CrewAI never closes one.
    """
    client = {"base_url": base_url, "api_key": "author", "default_headers": {"Connection": "close"}}
    return LLM(**{"model": "gpt-4o", "max_retries": 0, **client, **settings})


def text_llm(base_url: str, **settings: Any) -> LLM:
    """One that CrewAI does not know to call functions, so that tools go as text."""
    model = llm(base_url, **settings)
    object.__setattr__(model, "supports_function_calling", lambda: False)
    return model


def agent(model: Any, role: str = "Clerk", **settings: Any) -> Agent:
    return Agent(**{"role": role, "goal": "Answer.", "backstory": "You count.", "llm": model, **settings})


def task(by: Agent | None, description: str = "{question}", **settings: Any) -> Task:
    return Task(
        **{"name": "answer", "description": description, "expected_output": "A number.", "agent": by, **settings}
    )


def one_agent(url: str, **settings: Any) -> Crew:
    by = agent(llm(url), tools=[add])
    return Crew(agents=[by], tasks=[task(by)], **settings)


def in_text(url: str) -> Crew:
    by = agent(text_llm(url), tools=[add])
    return Crew(agents=[by], tasks=[task(by)])


def streaming_llm(url: str) -> Crew:
    by = agent(llm(url, stream=True), tools=[add])
    return Crew(agents=[by], tasks=[task(by)])


def two_tasks(url: str) -> Crew:
    first, second = agent(llm(url), "Reader"), agent(llm(url), "Writer", tools=[add])
    return Crew(
        agents=[first, second],
        tasks=[task(first, name="read"), task(second, "Write of {question}", name="write")],
    )


def at_the_same_time(url: str) -> Crew:
    by = [agent(llm(url), f"Reader {n}", tools=[add]) for n in range(3)]
    last = agent(llm(url), "Writer")
    tasks = [task(a, name=f"read {n}", async_execution=True) for n, a in enumerate(by)]
    return Crew(agents=[*by, last], tasks=[*tasks, task(last, "Write of {question}", name="write")])


def with_model_output(url: str) -> Crew:
    by = agent(llm(url))
    return Crew(agents=[by], tasks=[task(by, output_pydantic=Answer)])


def delegating(url: str) -> Crew:
    boss, worker = agent(llm(url), "Boss", allow_delegation=True), agent(llm(url), "Calculator", tools=[add])
    return Crew(agents=[boss, worker], tasks=[task(boss)])


def hierarchical(url: str) -> Crew:
    worker = agent(llm(url), "Calculator", tools=[add])
    return Crew(agents=[worker], tasks=[task(None)], process=Process.hierarchical, manager_llm=llm(url))


CREWS = {
    build.__name__: build
    for build in (
        one_agent,
        in_text,
        streaming_llm,
        two_tasks,
        at_the_same_time,
        with_model_output,
        delegating,
        hierarchical,
    )
}
CALLS = {
    "one_agent": 2,
    "in_text": 2,
    "streaming_llm": 2,
    "two_tasks": 3,
    "at_the_same_time": 7,
    "with_model_output": 1,
    "delegating": 4,
    "hierarchical": 4,
}


class CountingFlow(Flow[Any]):
    """A crew, then the bare model."""

    url: str = ""

    @start()
    def count(self) -> str:
        return str(one_agent(self.state["url"]).kickoff(inputs=QUESTION))

    @listen(count)
    def praise(self, counted: str) -> str:
        return str(llm(self.state["url"]).call(f"Praise: {counted}"))
