"""What the Google ADK hooks cost over ADK's own `OpenAILlm`; measured as `_hook_costs.py` says.

python bench/hooks_adk.py [--rounds 30] [--calls 4] [--tokens 200] [--json]
"""

from __future__ import annotations

import asyncio
import itertools

from _hook_costs import Work, run

PROBE = """
import asyncio, json, time
import openai
from google.adk.agents import LlmAgent
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types

def answer(**_):
    return LlmResponse(content=types.Content(role="model", parts=[types.Part(text="hi")]))

agent = LlmAgent(name="clerk", model="gemini-2.5-flash", before_model_callback=answer)
asyncio.run(InMemoryRunner(agent=agent, app_name="bench").run_debug("hi", quiet=True))
before = time.process_time()
import woodshed_adk
imported = time.process_time()
woodshed_adk.instrument(agent)
print(json.dumps([imported - before, time.process_time() - imported]))
"""


def instrument() -> None:
    """Hook ADK."""
    import woodshed_adk

    woodshed_adk.instrument()


def works(base_url: str, loop: asyncio.AbstractEventLoop) -> dict[str, Work]:
    """Return what is measured: runs of one agent, each in a session of its own."""
    import openai
    from google.adk.agents import LlmAgent
    from google.adk.agents.run_config import RunConfig, StreamingMode
    from google.adk.integrations.openai import OpenAILlm
    from google.adk.runners import InMemoryRunner
    from google.genai import types

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    model = OpenAILlm(model="m", client=openai.AsyncOpenAI(base_url=base_url, api_key="any"))
    message = types.Content(role="user", parts=[types.Part(text="What is 1 + 2?")])
    names = itertools.count()

    def runs(agent: LlmAgent, mode: StreamingMode) -> Work:
        runner = InMemoryRunner(agent=agent, app_name="bench")

        async def once() -> None:
            name = str(next(names))
            await runner.session_service.create_session(app_name="bench", user_id="u", session_id=name)
            config = RunConfig(streaming_mode=mode)
            async for _ in runner.run_async(user_id="u", session_id=name, new_message=message, run_config=config):
                pass
            await runner.session_service.delete_session(app_name="bench", user_id="u", session_id=name)

        return lambda: loop.run_until_complete(once())

    plain = LlmAgent(name="plain", model=model, instruction="Answer.")
    tools = LlmAgent(name="tools", model=model, instruction="Answer.", tools=[add])
    return {
        "one call": runs(plain, StreamingMode.NONE),
        "one call, SSE": runs(plain, StreamingMode.SSE),
        "tool and answer": runs(tools, StreamingMode.NONE),
        "tool and answer, SSE": runs(tools, StreamingMode.SSE),
    }


if __name__ == "__main__":
    run("hooks_adk", framework="adk", probe=PROBE)
