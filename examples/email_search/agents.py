"""The same agent in LangGraph, CrewAI and ADK: three tools, one instruction, at most so many calls of the model.

Each function returns a rollout. In it only one line is of woodshed: `wrap`, `trainable` or `instrument`.
"""

# No `from __future__ import annotations` here: ADK takes annotations for types, not for text.
import os
from collections.abc import Callable

import tools
from make_archive import Question

import woodshed

INSTRUCTION = (
    "You answer questions about the mail of Rowan & Pike, a joinery. Search, read the mails that matter, then call "
    "answer. A later mail may change what an earlier one says."
)
MAX_MODEL_CALLS = 8
MAX_TOKENS = 96
"""Longest answer of one call of the model."""


def langgraph() -> woodshed.RolloutFunction:
    """Return the rollout of the agent in LangGraph."""
    from langchain.agents import create_agent
    from langchain.agents.middleware import ModelCallLimitMiddleware
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    from woodshed_langgraph import wrap

    agent = wrap(
        create_agent(
            ChatOpenAI(model="gpt-4o-mini", max_completion_tokens=MAX_TOKENS, api_key=_KEY),
            tools=[tools.search_mail, tools.read_mail, tool(return_direct=True)(tools.answer)],
            system_prompt=INSTRUCTION,
            middleware=[ModelCallLimitMiddleware(run_limit=MAX_MODEL_CALLS)],
        )
    )

    @woodshed.rollout
    async def find_out(question: Question) -> None:
        await agent.ainvoke({"messages": [("user", question.text)]}, {"recursion_limit": 100})

    return find_out


def crewai() -> woodshed.RolloutFunction:
    """Return the rollout of the agent in CrewAI."""
    for setting in ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING", "OTEL_SDK_DISABLED"):
        os.environ.setdefault(setting, "true")
    from crewai import LLM, Agent, Crew, Task
    from crewai.tools import tool

    from woodshed_crewai import trainable

    @trainable
    def office() -> Crew:
        clerk = Agent(
            role="Clerk",
            goal="Answer questions about the mail",
            backstory=INSTRUCTION,
            tools=[tool(tools.search_mail), tool(tools.read_mail), tool(result_as_answer=True)(tools.answer)],
            llm=LLM(model="gpt-4o-mini", max_tokens=MAX_TOKENS, api_key=_KEY),
            max_iter=MAX_MODEL_CALLS,
        )
        task = Task(description="{question}", expected_output="A call of answer.", agent=clerk)
        return Crew(agents=[clerk], tasks=[task])

    @woodshed.rollout
    def find_out(question: Question) -> None:
        office().kickoff(inputs={"question": question.text})

    return find_out


def adk() -> woodshed.RolloutFunction:
    """Return the rollout of the agent in Google ADK."""
    from google.adk.agents import LlmAgent, RunConfig
    from google.adk.agents.invocation_context import LlmCallsLimitExceededError
    from google.adk.runners import InMemoryRunner
    from google.adk.tools.tool_context import ToolContext
    from google.genai import types

    from woodshed_adk import instrument

    def answer(text: str, sources: list[str], tool_context: ToolContext) -> str:
        tool_context.actions.skip_summarization = True  # the agent's turn ends with this call
        return tools.answer(text, sources)

    answer.__doc__ = tools.answer.__doc__
    clerk = LlmAgent(
        name="clerk",
        model="gemini-2.5-flash",
        instruction=INSTRUCTION,
        tools=[tools.search_mail, tools.read_mail, answer],
        generate_content_config=types.GenerateContentConfig(max_output_tokens=MAX_TOKENS),
    )
    runner = InMemoryRunner(agent=instrument(clerk), app_name="mail")

    @woodshed.rollout
    async def find_out(question: Question) -> None:
        session = await runner.session_service.create_session(app_name="mail", user_id="office")
        asked = types.Content(role="user", parts=[types.Part(text=question.text)])
        limit = RunConfig(max_llm_calls=MAX_MODEL_CALLS)
        try:
            async for _ in runner.run_async(
                user_id="office", session_id=session.id, new_message=asked, run_config=limit
            ):
                pass
        except LlmCallsLimitExceededError:
            pass  # it ended without an answer, as the others do at their limit

    return find_out


_KEY = os.environ.get("OPENAI_API_KEY", "none")
"""Never used while it practises."""
ROLLOUTS: dict[str, Callable[[], woodshed.RolloutFunction]] = {"langgraph": langgraph, "crewai": crewai, "adk": adk}
