"""What the CrewAI hooks cost over the same models and crew unhooked; measured as `_hook_costs.py` says.

python bench/hooks_crewai.py [--rounds 30] [--calls 4] [--tokens 200] [--json]
"""

from __future__ import annotations

import asyncio
import os
import tempfile

from _hook_costs import Work, run

os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CREWAI_DISABLE_TRACKING", "true")
os.environ.setdefault("OTEL_SDK_DISABLED", "true")

PROBE = """
import json, time
import crewai
before = time.process_time()
import woodshed_crewai
imported = time.process_time()
woodshed_crewai.instrument()
print(json.dumps([imported - before, time.process_time() - imported]))
"""


def instrument() -> None:
    """Hook CrewAI."""
    import woodshed_crewai

    woodshed_crewai.instrument()


def works(base_url: str, loop: asyncio.AbstractEventLoop) -> dict[str, Work]:
    """Return what is measured."""
    os.environ.setdefault("CREWAI_STORAGE_DIR", tempfile.mkdtemp(prefix="woodshed-bench-"))
    from crewai import LLM, Agent, Crew, Task
    from crewai.tools import tool

    @tool("add")
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    model = LLM(model="gpt-4o", base_url=base_url, api_key="any")
    streaming = LLM(model="gpt-4o", base_url=base_url, api_key="any", stream=True)
    clerk = Agent(role="Clerk", goal="Answer.", backstory="You count.", tools=[add], llm=model)
    crew = Crew(agents=[clerk], tasks=[Task(description="1 + 2?", expected_output="A number.", agent=clerk)])
    return {
        "llm.call": lambda: model.call("Hello"),
        "llm.acall": lambda: loop.run_until_complete(model.acall("Hello")),
        "llm.call, streamed": lambda: streaming.call("Hello"),
        "crew.kickoff": crew.kickoff,
        "crew.akickoff": lambda: loop.run_until_complete(crew.akickoff()),
    }


if __name__ == "__main__":
    run("hooks_crewai", framework="crewai", probe=PROBE)
