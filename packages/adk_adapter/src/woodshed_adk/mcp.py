"""An agent in Google ADK for the tools of an MCP server: one LLM agent, in a session of its own."""

from __future__ import annotations

from typing import Any

from google.adk.agents import LlmAgent
from google.adk.agents.invocation_context import LlmCallsLimitExceededError
from google.adk.agents.run_config import RunConfig
from google.adk.runners import InMemoryRunner
from google.adk.tools.base_tool import BaseTool
from google.genai import types

from woodshed.mcp.frameworks import Job
from woodshed.mcp.tools import Tool
from woodshed_adk.instrumentor import instrument

_APP, _USER = "woodshed_mcp", "user"


async def run_agent(job: Job) -> str:
    """Run the agent on one job and return its final answer; the empty text where its turns ran out."""
    runner = InMemoryRunner(agent=instrument(build_agent(job)), app_name=_APP)
    session = await runner.session_service.create_session(app_name=_APP, user_id=_USER)
    answer = ""
    try:
        async for event in runner.run_async(
            user_id=_USER,
            session_id=session.id,
            new_message=types.Content(role="user", parts=[types.Part(text=job.task)]),
            run_config=RunConfig(max_llm_calls=job.max_turns),
        ):
            if event.is_final_response() and event.content and event.content.parts:
                answer = "".join(part.text or "" for part in event.content.parts)
    except LlmCallsLimitExceededError:
        return ""
    return answer


def build_agent(job: Job) -> LlmAgent:
    """Return the agent; its instruction is given as a function, because ADK fills `{names}` in a text."""
    return LlmAgent(
        name="agent",
        model="gemini-2.5-flash",
        instruction=lambda _: job.instructions,
        tools=[_McpTool(tool, job) for tool in job.tools],
    )


class _McpTool(BaseTool):
    """One MCP tool as a tool of ADK; an error of the tool is what the model is told."""

    def __init__(self, tool: Tool, job: Job) -> None:
        super().__init__(name=tool.name, description=tool.description)
        self._parameters = tool.parameters
        self._job = job

    def _get_declaration(self) -> types.FunctionDeclaration:
        return types.FunctionDeclaration(
            name=self.name, description=self.description, parameters_json_schema=self._parameters
        )

    async def run_async(self, *, args: dict[str, Any], tool_context: Any) -> Any:
        """Call the tool on the job's session."""
        answer = await self._job.call(self.name, args)
        return {"error": answer.text} if answer.is_error else answer.text
