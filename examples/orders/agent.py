"""The agent: a LangGraph graph that turns a message into an order. Nothing in it but `wrap` knows of woodshed."""

from __future__ import annotations

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from orders import Message
from pydantic import SecretStr

import woodshed
from woodshed_langgraph import wrap

_INSTRUCTION = (
    "Turn the customer's message into an order: one line of JSON with the keys item, quantity, city and express. "
    "The item is in the singular. Express is true if the customer is in a hurry. Write nothing else."
)
_EXAMPLES = (
    ("user", "Two forks to Madrid, please. There is no rush."),
    ("assistant", '{"item": "fork", "quantity": 2, "city": "Madrid", "express": false}'),
    ("user", "I need 11 tables in Berlin. Please hurry!"),
    ("assistant", '{"item": "table", "quantity": 11, "city": "Berlin", "express": true}'),
)
_model = ChatOpenAI(model="gpt-4o-mini", api_key=SecretStr("never used while it practises"), max_retries=0)


async def _clerk(state: MessagesState) -> dict[str, object]:
    return {"messages": [await _model.ainvoke([("system", _INSTRUCTION), *_EXAMPLES, *state["messages"]])]}


def _graph():  # type: ignore[no-untyped-def]
    graph = StateGraph(MessagesState)
    graph.add_node("clerk", _clerk)
    graph.add_edge(START, "clerk")
    graph.add_edge("clerk", END)
    return wrap(graph.compile())


GRAPH = _graph()


@woodshed.rollout
async def take_order(message: Message) -> None:
    """One attempt at one message."""
    await GRAPH.ainvoke({"messages": [("user", message.text)]})


def answer_of(trajectory: woodshed.Trajectory) -> str:
    """Return what the policy wrote."""
    spoken = [call.tokens.completions[0].message.content for call in trajectory.calls if call.tokens.completions]
    return str(spoken[-1] or "") if spoken else ""
