"""The same clerk as a CrewAI crew, as its author wrote it for a hosted model. It knows nothing of woodshed."""

from __future__ import annotations

import os

# The shop runs without a network; CrewAI reads these once, when it is imported.
os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CREWAI_DISABLE_TRACKING", "true")
os.environ.setdefault("OTEL_SDK_DISABLED", "true")

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

from woodshed_tiny_world.world import get_delivery, get_price, get_stock


def build_crew() -> Crew:
    """Return a crew of one clerk; `crew.kickoff(inputs={"question": ...})` answers a question.

    A crew keeps the state of its run, so that each run at the same time needs a crew of its own.
    """
    clerk = Agent(
        role="Clerk of a music shop",
        goal="Look it up, then answer.",
        backstory="You know every instrument.",
        tools=[tool(get_price), tool(get_stock), tool(get_delivery)],
        llm=LLM(model="gpt-4o-mini", max_tokens=48),
        max_iter=4,
    )
    answer = Task(description="{question}", expected_output="One short sentence.", agent=clerk)
    return Crew(agents=[clerk], tasks=[answer])
