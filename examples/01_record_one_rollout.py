"""Record one rollout of an ordinary LangGraph agent. No model is needed: a scripted engine answers.

Run: .venv/bin/python examples/01_record_one_rollout.py
"""

from __future__ import annotations

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

from woodshed.rewards.transcript import histories, render_messages
from woodshed.testing import ScriptedEngine, call_tool, in_order, say, scripted_rollout
from woodshed_langgraph import wrap


def stock(item: str) -> str:
    """Return how many of an item are left."""
    return {"lamp": "4 left"}.get(item, "unknown item")


def main() -> None:
    author_model = ChatOpenAI(model="gpt-4o-mini", api_key="none")  # never reached inside the rollout
    agent = wrap(create_agent(author_model, tools=[stock]))

    with ScriptedEngine(in_order(call_tool("stock", item="lamp"), say("Four lamps are left."))) as engine:
        with scripted_rollout(engine) as rollout:
            agent.invoke({"messages": [("user", "How many lamps are left?")]})
        trajectory = engine.trajectory(rollout)

    for history in histories(trajectory):
        print(render_messages(history.messages))
    for tool in trajectory.tool_calls:
        print(f"tool call {tool.name}({tool.arguments}) → {tool.result!r} in {tool.latency_s * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
