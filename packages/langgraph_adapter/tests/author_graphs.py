"""Graphs as their authors write them, knowing nothing of woodshed, and the clerk that answers their calls."""

from __future__ import annotations

import json
import operator
import warnings
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Send
from pydantic import BaseModel, Field, SecretStr

from woodshed.testing import Reply, call_tools, say
from woodshed.types import ToolRequest

ARGUMENTS = {
    "add": {"a": 1, "b": 2},
    "ask_helper": {"question": "and you?"},
    "Answer": {"text": "three"},
    "Joke": {"text": "three"},
}


class Answer(BaseModel):
    """The final answer."""

    text: str = Field(description="the answer in words")


class Joke(TypedDict):
    """A joke."""

    text: str


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def clerk(request: dict[str, Any]) -> Reply:
    """Call the first tool once, then tell its result; without tools, echo. A function of the request alone."""
    messages, last = request["messages"], request["messages"][-1]
    names = [tool["function"]["name"] for tool in request.get("tools") or ()]
    if request.get("response_format"):
        return say(json.dumps({"text": "three"}))
    answered = last["role"] == "tool"
    wanted = [n for n in names if n == "Answer"] if answered else names
    if wanted:
        name = wanted[0]
        call = ToolRequest(id=f"call_{len(messages)}_{name}", name=name, arguments=json.dumps(ARGUMENTS[name]))
        return call_tools(call, content="" if answered else "Let me see.")
    content = last["content"] if isinstance(last["content"], str) else json.dumps(last["content"])
    return say(f"The result is {content}" if answered else f"You said: {content}")


def chat(base_url: str, **settings: Any) -> ChatOpenAI:
    """Return the author's model."""
    return ChatOpenAI(model="gpt-4o-mini", api_key=SecretStr("author"), base_url=base_url, max_retries=0, **settings)


def agent(model: Any) -> Any:
    return create_agent(model, [add], system_prompt="You add.", name="adder")


def agent_tool_strategy(model: Any) -> Any:
    return create_agent(model, [add], response_format=ToolStrategy(Answer))


def agent_provider_strategy(model: Any) -> Any:
    return create_agent(model, [], response_format=ProviderStrategy(Answer))


def react_agent(model: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of create_agent, and still everywhere
        from langgraph.prebuilt import create_react_agent

        return create_react_agent(model, [add], prompt="You add.")


def by_hand(model: Any) -> Any:
    bound = model.bind_tools([add])
    graph = StateGraph(MessagesState)
    graph.add_node("think", lambda state: {"messages": [bound.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([add]))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return graph.compile()


def by_hand_async(model: Any) -> Any:
    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.bind_tools([add]).ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([add]))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return graph.compile()


def streaming_node(model: Any) -> Any:
    def think(state: MessagesState) -> dict[str, Any]:
        whole = None
        for chunk in model.stream(state["messages"]):
            whole = chunk if whole is None else whole + chunk
        return {"messages": [whole]}

    return _one_node(think)


def model_made_in_node(model: Any) -> Any:
    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.model_copy().invoke(state["messages"])]}

    return _one_node(think)


def _one_node(think: Callable[..., Any]) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    return graph.compile()


class Topics(TypedDict):
    messages: list[Any]
    jokes: Annotated[list[str], operator.add]


def fan_out(model: Any) -> Any:
    def joke(state: dict[str, Any]) -> dict[str, Any]:
        return {"jokes": [model.invoke(f"a joke about {state['topic']}").content]}

    graph = StateGraph(Topics)
    graph.add_node("plan", lambda state: {})
    graph.add_node("joke", joke)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", lambda _: [Send("joke", {"topic": t}) for t in ("cats", "dogs", "fish")])
    return graph.compile()


def sub_graph(model: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("researcher", by_hand(model))
    graph.add_node("writer", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "researcher")
    graph.add_edge("researcher", "writer")
    return graph.compile()


def structured(model: Any) -> Any:
    def think(state: MessagesState) -> dict[str, Any]:
        by_tool = model.with_structured_output(Answer, method="function_calling").invoke(state["messages"])
        by_schema = model.with_structured_output(Answer, method="json_schema").invoke(state["messages"])
        raw = model.with_structured_output(Joke, method="json_mode", include_raw=True).invoke(state["messages"])
        return {"messages": [f"{by_tool!r} {by_schema!r} {raw['parsed']} {raw['parsing_error']}"]}

    return _one_node(think)


def functional(model: Any) -> Any:
    @task
    def ask(question: str) -> str:
        return str(model.invoke(question).content)

    @entrypoint()
    def flow(inputs: dict[str, Any]) -> list[str]:
        futures = [ask(f"{inputs['messages'][0][1]} {number}") for number in range(2)]
        return [future.result() for future in futures]

    return flow


def agent_as_tool(model: Any) -> Any:
    helper: Any = create_agent(model, [], name="helper")

    @tool
    def ask_helper(question: str) -> str:
        """Ask the helper."""
        return str(helper.invoke({"messages": [("user", question)]})["messages"][-1].content)

    return create_agent(model, [ask_helper], name="boss")


GRAPHS: dict[str, Callable[[Any], Any]] = {
    build.__name__: build
    for build in (
        agent, agent_tool_strategy, agent_provider_strategy, react_agent, by_hand, by_hand_async, streaming_node,
        model_made_in_node, fan_out, sub_graph, structured, functional, agent_as_tool,
    )
}  # fmt: skip
CALLS = {
    "agent": 2, "agent_tool_strategy": 2, "agent_provider_strategy": 1, "react_agent": 2, "by_hand": 2,
    "by_hand_async": 2, "streaming_node": 1, "model_made_in_node": 1, "fan_out": 3, "sub_graph": 3, "structured": 3,
    "functional": 2, "agent_as_tool": 3,
}  # fmt: skip
"""How many model calls one run of each graph makes."""
ASYNC_ONLY = {"by_hand_async"}
QUESTION = {"messages": [("user", "What is 1 + 2?")]}
