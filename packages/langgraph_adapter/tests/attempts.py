"""What the tests of attempts share: a graph of one node, and what became of each call."""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import RetryPolicy

from woodshed.types import Trajectory

TWICE = RetryPolicy(max_attempts=3, initial_interval=0.01, jitter=False, retry_on=ValueError)


def attempts(trajectory: Trajectory) -> list[tuple[str | None, int, bool]]:
    """Return (answer, attempt, superseded) of every call."""
    return [
        (c.tokens.completions[0].message.content if c.tokens.completions else None, c.note.attempt, c.note.superseded)
        for c in trajectory.calls
        if c.note is not None
    ]


def one_node(node: Any, **options: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("node", node, **options)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph


ASK = {"messages": [("user", "hi")]}
