"""An agent in LangGraph for the tools of an MCP server: a model, a tool node, and a turn between them."""

from __future__ import annotations

import os
from typing import Any

from langchain_core.messages import SystemMessage
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import SecretStr

from woodshed.mcp.frameworks import Job
from woodshed.mcp.tools import Tool
from woodshed_langgraph.instrumentor import instrument


async def run_agent(job: Job) -> str:
    """Run the agent on one job and return its final answer."""
    instrument()
    # Two steps of the graph are one turn, the model's and the tools'; the graph itself ends at the limit of turns.
    finished = await build_agent(job).ainvoke(
        {"messages": [("user", job.task)]}, {"recursion_limit": 2 * job.max_turns + 1}
    )
    return str(finished["messages"][-1].text)


def build_agent(job: Job) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the graph: `model` asks for tools until it answers, `tools` calls them on the job's session."""
    tools = [_tool(tool, job) for tool in job.tools]
    # A placeholder where no key is set: in a rollout the policy answers; outside one the provider says what is wrong.
    model = ChatOpenAI(model="gpt-4o-mini", api_key=SecretStr(os.environ.get("OPENAI_API_KEY", "none")))
    bound = model.bind_tools(tools)
    system = SystemMessage(job.instructions)

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await bound.ainvoke([system, *state["messages"]])]}

    def onward(state: MessagesState) -> str:
        turns = sum(message.type == "ai" for message in state["messages"])
        return END if turns >= job.max_turns else tools_condition(list(state["messages"]))

    graph = StateGraph(MessagesState)
    graph.add_node("model", answer)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", onward, ["tools", END])
    graph.add_edge("tools", "model")
    return graph.compile()


def _tool(tool: Tool, job: Job) -> BaseTool:
    """Return one MCP tool as a tool of LangChain; an error of the tool is what the model is told."""

    async def call(**arguments: Any) -> str:
        answer = await job.call(tool.name, arguments)
        if answer.is_error:
            raise ToolException(answer.text)
        return answer.text

    return StructuredTool(
        name=tool.name,
        description=tool.description,
        args_schema=tool.parameters,
        coroutine=call,
        handle_tool_error=True,
    )
