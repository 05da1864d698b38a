"""What the LangGraph hooks cost over the same graph unhooked; measured as `_hook_costs.py` says.

python bench/hooks_langgraph.py [--rounds 30] [--calls 4] [--tokens 200] [--json]
"""

from __future__ import annotations

import asyncio

from _hook_costs import Work, run

PROBE = """
import json, time
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
before = time.process_time()
import woodshed_langgraph
imported = time.process_time()
woodshed_langgraph.instrument()
print(json.dumps([imported - before, time.process_time() - imported]))
"""


def instrument() -> None:
    """Hook LangGraph."""
    import woodshed_langgraph

    woodshed_langgraph.instrument()


def works(base_url: str, loop: asyncio.AbstractEventLoop) -> dict[str, Work]:
    """Return what is measured."""
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    model = ChatOpenAI(model="m", api_key="any", base_url=base_url)  # type: ignore[arg-type]
    graph = create_agent(model, [add])
    question = {"messages": [{"role": "user", "content": "What is 1 + 2?"}]}
    return {
        "model.invoke": lambda: model.invoke("Hello"),
        "model.ainvoke": lambda: loop.run_until_complete(model.ainvoke("Hello")),
        "model.stream": lambda: list(model.stream("Hello")),
        "create_agent.invoke": lambda: graph.invoke(question),  # type: ignore[arg-type]
        "create_agent.ainvoke": lambda: loop.run_until_complete(graph.ainvoke(question)),  # type: ignore[arg-type]
    }


if __name__ == "__main__":
    run("hooks_langgraph", framework="langgraph", probe=PROBE)
