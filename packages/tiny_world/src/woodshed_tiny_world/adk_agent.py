"""The same clerk as a Google ADK agent, as its author wrote it for a hosted model. It knows nothing of woodshed."""

from __future__ import annotations

from google.adk.agents import LlmAgent
from google.adk.runners import InMemoryRunner
from google.genai import types

from woodshed_tiny_world.world import SYSTEM_PROMPT, get_delivery, get_price, get_stock

APP = "music_shop"


def build_adk_agent() -> LlmAgent:
    """Return the clerk: a model, an instruction and the three tools of the shop."""
    return LlmAgent(
        name="clerk",
        model="gemini-2.5-flash",
        instruction=SYSTEM_PROMPT,
        tools=[get_price, get_stock, get_delivery],
        generate_content_config=types.GenerateContentConfig(max_output_tokens=48),
    )


async def ask(runner: InMemoryRunner, question: str) -> str:
    """Return the clerk's answer to one question, asked in a session of its own."""
    session = await runner.session_service.create_session(app_name=APP, user_id="customer")
    answer = ""
    async for event in runner.run_async(
        user_id="customer",
        session_id=session.id,
        new_message=types.Content(role="user", parts=[types.Part(text=question)]),
    ):
        if event.is_final_response() and event.content and event.content.parts:
            answer = event.content.parts[0].text or ""
    return answer
