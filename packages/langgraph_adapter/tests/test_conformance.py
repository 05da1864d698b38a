"""LangGraph's agents for the contract: the rows are `woodshed.testing.conformance`'s own."""

from __future__ import annotations

import inspect
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypedDict

import langchain.agents.factory
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware, ToolRetryMiddleware
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool as as_tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import RetryPolicy
from pydantic import BaseModel, SecretStr

from woodshed.capture import Hook
from woodshed.testing import Reply, say
from woodshed.testing.conformance import AnswerMode, Conformance, Outcome, Streamed, Tool
from woodshed_langgraph import LangGraphInstrumentor
from woodshed_langgraph.instrumentor import HOOKS

_IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(-\d+)?|[0-9a-f]{32}")
_UNSTABLE = {"seq", "timestamp", "ts", "event_id"}


class Toss(TypedDict):
    messages: list[Any]
    sides: Annotated[list[str], operator.add]


class State(MessagesState):
    answer: Any


def chat(base_url: str, max_retries: int = 0) -> ChatOpenAI:
    """Return the author's model."""
    return ChatOpenAI(model="gpt-4o-mini", api_key=SecretStr("author"), base_url=base_url, max_retries=max_retries)


# langchain tells an agent's name from 1.2.10 on; before, its place in the graph is all there is.
_NAMED = "lc_agent_name" in inspect.getsource(langchain.agents.factory)


class TestConformance(Conformance):
    framework = "LangGraph"
    not_applicable: ClassVar[Mapping[int, str]] = {} if _NAMED else {13: "this langchain does not tell agents' names"}
    policy = Path(__file__).parents[2] / "tiny_world/src/woodshed_tiny_world/weights/policy"

    def instrumentor(self) -> LangGraphInstrumentor:
        return LangGraphInstrumentor()

    def hooks(self) -> Sequence[Hook]:
        return HOOKS

    def assistant(
        self, base_url: str, *, tools: Sequence[Tool] = (), name: str = "assistant",
        instruction: str = "Answer in one sentence.", answer: type[BaseModel] | None = None,
        mode: AnswerMode = "json_schema", tool_choice: str | None = None, max_retries: int = 0,
    ) -> Any:  # fmt: skip
        model = chat(base_url, max_retries)
        if answer is not None:
            return _typed(model, instruction, answer, mode)
        if tool_choice is not None:
            return _choosing(model, tools, name, instruction, tool_choice)
        return _agent(model, tools, name, instruction)

    def team(self, base_url: str, *, tools: Sequence[Tool]) -> Any:
        model = chat(base_url)
        members = {name: _agent(model, tools, name, f"You are {name}.") for name in ("red", "blue")}

        def ask(name: str) -> Any:
            def delegate(work: str) -> str:
                return str(members[name].invoke({"messages": [("user", work)]})["messages"][-1].text)

            return as_tool(f"ask_{name}", description=f"Give work to {name}.")(delegate)

        return _agent(model, [*tools, ask("red"), ask("blue")], "planner", "You are planner.")

    def delegation(self, member: str, work: str) -> tuple[str, Mapping[str, Any]]:
        return f"ask_{member}", {"work": work}

    def twins(self, base_url: str) -> Any:
        model = chat(base_url)

        def toss(state: Toss) -> dict[str, Any]:
            return {"sides": [model.invoke(state["messages"]).text]}

        graph = StateGraph(Toss)
        graph.add_node("left", toss)
        graph.add_node("right", toss)
        graph.add_edge(START, "left")
        graph.add_edge(START, "right")
        return graph.compile()

    def handoff(self, base_url: str) -> Any:
        model = chat(base_url)
        graph = StateGraph(MessagesState)
        for name in ("front", "clerk"):
            graph.add_node(name, _calling(_agent(model, [], name, f"You are {name}.")))
        graph.add_edge(START, "front")
        graph.add_edge("front", "clerk")
        return graph.compile()

    def transfer(self) -> Reply:
        return say("One moment, I pass you on.")

    def retrying(self, base_url: str) -> Mapping[str, Any]:
        model = chat(base_url)

        def good(message: Any) -> Any:
            if message.text != "good":
                raise ValueError("not good")
            return message

        policy = RetryPolicy(max_attempts=3, initial_interval=0.01, jitter=False, retry_on=ValueError)
        again = (model | RunnableLambda(good)).with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
        return {
            "RetryPolicy": _one_node(lambda s: {"messages": [good(model.invoke(s["messages"]))]}, retry_policy=policy),
            "with_retry": _one_node(lambda s: {"messages": [again.invoke(s["messages"])]}),
        }

    def run_compacting(self, base_url: str, tools: Sequence[Tool]) -> None:
        model = chat(base_url)
        shorten = SummarizationMiddleware(model, trigger=("messages", 6), keep=("messages", 2))
        agent: Any = create_agent(model, list(tools), system_prompt="You count.", middleware=[shorten])
        agent.invoke({"messages": [("user", "Count everything.")]}, {"recursion_limit": 100})

    def remembering(self, base_url: str) -> Callable[[str], None]:
        agent: Any = create_agent(chat(base_url), checkpointer=InMemorySaver())
        return lambda question: agent.invoke(_ask(question), {"configurable": {"thread_id": "always the same"}})

    def run(self, agent: Any, question: str) -> Outcome:
        return _outcome(agent.invoke(_ask(question)))

    async def arun(self, agent: Any, question: str) -> Outcome:
        return _outcome(await agent.ainvoke(_ask(question)))

    async def stream(self, agent: Any, question: str) -> Streamed:
        events = [event async for event in agent.astream_events(_ask(question), version="v2")]
        chunks = [e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream"]
        pieces = [chunk.text for chunk in chunks if isinstance(chunk, AIMessageChunk)]
        end = _outcome(events[-1]["data"]["output"])
        # Parallel branches differ in order from run to run.
        record = [end.record, *sorted(json.dumps(plain(event), sort_keys=True) for event in events)]
        return Streamed(pieces=pieces, outcome=Outcome(text=end.text, parsed=end.parsed, raw=end.raw, record=record))


def _ask(question: str) -> dict[str, Any]:
    return {"messages": [("user", question)]}


def _agent(model: Any, tools: Sequence[Any], name: str, instruction: str) -> Any:
    # By itself create_agent lets a tool's exception pass; this middleware is its own way to tell the model.
    told: Any = ToolRetryMiddleware(max_retries=0, on_failure="continue")
    return create_agent(model, list(tools), system_prompt=instruction, name=name, middleware=[told])


def _calling(agent: Any) -> Any:
    """Return a node that calls an agent; as a sub-graph, the oldest langgraph would tell it by its place."""

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": agent.invoke({"messages": state["messages"]})["messages"]}

    return node


def _choosing(model: Any, tools: Sequence[Any], name: str, instruction: str, tool_choice: str) -> Any:
    """Return a hand-written agent, which can be told what tool to choose."""
    bound = model.bind_tools(tools, tool_choice=tool_choice)

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [bound.invoke([("system", instruction), *state["messages"]])]}

    graph = StateGraph(MessagesState)
    graph.add_node(name, think)
    graph.add_node("tools", ToolNode(list(tools)))
    graph.add_edge(START, name)
    graph.add_conditional_edges(name, tools_condition)
    graph.add_edge("tools", END)
    return graph.compile()


def _typed(model: Any, instruction: str, answer: type[BaseModel], mode: AnswerMode) -> Any:
    methods: dict[AnswerMode, dict[str, Any]] = {
        "tool": {"method": "function_calling"},
        "json_schema": {"method": "json_schema"},
        "raw": {"method": "json_schema", "include_raw": True},
    }
    typed = model.with_structured_output(answer, **methods[mode])

    def think(state: State) -> dict[str, Any]:
        return {"answer": typed.invoke([("system", instruction), *state["messages"]])}

    return _one_node(think)


def _one_node(think: Any, **options: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("think", think, **options)
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    return graph.compile()


def _outcome(state: Mapping[str, Any]) -> Outcome:
    messages, answer = state.get("messages") or [("", "")], state.get("answer")
    raw = answer["raw"].text if isinstance(answer, dict) else None
    parsed = answer["parsed"] if isinstance(answer, dict) else answer
    return Outcome(
        text=getattr(messages[-1], "text", ""),
        parsed=None if parsed is None else parsed.model_dump(),
        raw=raw,
        record=plain(dict(state)),
    )


def plain(value: Any) -> Any:
    """Return a value without what differs between any two runs: ids and times."""
    if isinstance(value, BaseModel):
        return {"class": type(value).__name__, **plain(dict(value))}
    if isinstance(value, dict):
        return {plain(str(k)): plain(v) for k, v in value.items() if k not in _UNSTABLE}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    return _IDS.sub("ID", value if isinstance(value, str) else repr(value))
