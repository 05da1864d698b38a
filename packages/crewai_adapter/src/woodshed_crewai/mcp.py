"""An agent in CrewAI for the tools of an MCP server: a crew of one, built for one task."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.tools import BaseTool
from crewai.utilities.pydantic_schema_utils import create_model_from_schema
from pydantic import ValidationError

from woodshed.mcp.frameworks import Job
from woodshed.mcp.tool_answer import ToolAnswer
from woodshed.mcp.tools import Tool
from woodshed_crewai.instrumentor import instrument


async def run_agent(job: Job) -> str:
    """Run the crew on one job and return its final answer; the empty text where its turns ran out."""
    instrument()
    crew = build_crew(job, asyncio.get_running_loop())
    try:
        # A crew blocks, so it runs in a thread; its tools are called in this loop, which owns the session.
        return str(await asyncio.to_thread(crew.kickoff))
    except ValidationError as error:
        # After the last turn CrewAI asks for the answer; a model that calls a tool instead leaves it without a text.
        if error.title != "TaskOutput":
            raise
        return ""


def build_crew(job: Job, loop: asyncio.AbstractEventLoop) -> Crew:
    """Return a crew of one agent, whose tools are called on the job's session in `loop`."""
    agent = Agent(
        role="Assistant",
        goal="Do what the user asks, with the tools you have.",
        backstory=job.instructions,
        tools=[_tool(tool, job, loop) for tool in job.tools],
        llm=LLM(model="gpt-4o-mini"),
        # After its turns CrewAI asks once more, for the answer alone.
        max_iter=max(job.max_turns - 1, 1),
    )
    answer = Task(description=job.task, expected_output="The answer to what the user asks.", agent=agent)
    return Crew(agents=[agent], tasks=[answer])


def _tool(tool: Tool, job: Job, loop: asyncio.AbstractEventLoop) -> BaseTool:
    """Return one MCP tool as a tool of CrewAI; an error of the tool is what the model is told."""

    class McpTool(BaseTool):
        def _run(self, **arguments: Any) -> str:
            # CrewAI fills what the model left out with None, which few schemas take.
            given = {name: value for name, value in arguments.items() if value is not None}
            answer = asyncio.run_coroutine_threadsafe(_called(job, tool.name, given), loop).result()
            if answer.is_error:
                raise RuntimeError(answer.text)
            return answer.text

    arguments = create_model_from_schema(tool.parameters, model_name=_class_name(tool.name))
    return McpTool(name=tool.name, description=tool.description or tool.name, args_schema=arguments)


async def _called(job: Job, name: str, arguments: dict[str, Any]) -> ToolAnswer:
    return await job.call(name, arguments)


def _class_name(name: str) -> str:
    return "".join(part.title() for part in re.split(r"[^A-Za-z0-9]+", name)) + "Arguments"
