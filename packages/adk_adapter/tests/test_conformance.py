"""Google ADK's agents for the contract: the rows are `woodshed.testing.conformance`'s own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
from author_agents import quietly
from google.adk.agents import LlmAgent
from google.adk.agents.context import Context
from google.adk.agents.run_config import RunConfig
from google.adk.apps.app import App, EventsCompactionConfig
from google.adk.integrations.openai import OpenAILlm
from google.adk.plugins.reflect_retry_tool_plugin import ReflectAndRetryToolPlugin
from google.adk.runners import InMemoryRunner
from google.adk.tools.agent_tool import AgentTool
from google.adk.workflow import START, FunctionNode, RetryConfig, Workflow, node
from google.genai import types
from pydantic import BaseModel
from running import QUIET, SSE, in_any_order, message, plain

from woodshed.capture import Hook
from woodshed.testing import Reply, call_tool
from woodshed.testing.conformance import AnswerMode, Conformance, Outcome, Streamed, Tool
from woodshed_adk import AdkInstrumentor
from woodshed_adk.instrumentor import HOOKS

pytestmark = QUIET


def chat(base_url: str, max_retries: int = 0) -> OpenAILlm:
    """Return the author's model; it is run in many event loops, so it keeps no connection."""
    plain_client = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0))
    client = openai.AsyncOpenAI(base_url=base_url, api_key="author", http_client=plain_client, max_retries=max_retries)
    return OpenAILlm(model="gpt-4o-mini", client=client)


class TestConformance(Conformance):
    framework = "Google ADK"
    policy = Path(__file__).parents[2] / "tiny_world/src/woodshed_tiny_world/weights/policy"

    def instrumentor(self) -> AdkInstrumentor:
        return AdkInstrumentor()

    def hooks(self) -> Sequence[Hook]:
        return HOOKS

    def assistant(
        self, base_url: str, *, tools: Sequence[Tool] = (), name: str = "assistant",
        instruction: str = "Answer in one sentence.", answer: type[BaseModel] | None = None,
        mode: AnswerMode = "json_schema", tool_choice: str | None = None, max_retries: int = 0,
    ) -> Any:  # fmt: skip
        model, options = chat(base_url, max_retries), dict[str, Any]()
        if answer is not None:
            options = {"output_schema": answer, "output_key": "answer"}
            # Beside tools, ADK has a typed answer given by a tool of its own.
            tools = [_calendar] if mode == "tool" else []
        if tool_choice is not None:
            options = _choosing(tool_choice)
        return _app(LlmAgent(name=name, model=model, instruction=instruction, tools=list(tools), **options))

    def team(self, base_url: str, *, tools: Sequence[Tool]) -> Any:
        model = chat(base_url)
        members = [
            LlmAgent(name=name, model=model, instruction=f"You are {name}.", tools=list(tools))
            for name in ("red", "blue")
        ]
        own = [*tools, *(AgentTool(member) for member in members)]
        return _app(LlmAgent(name="planner", model=model, instruction="You are planner.", tools=own))

    def delegation(self, member: str, work: str) -> tuple[str, Mapping[str, Any]]:
        return member, {"request": work}

    def twins(self, base_url: str) -> Any:
        thrower = LlmAgent(name="thrower", model=chat(base_url), instruction="You toss.")

        def twice(node_input: Any) -> list[str]:
            return ["Toss a coin."] * 2

        def both(node_input: Any) -> str:
            return " ".join(sorted(node_input))

        both_at_once = node(thrower, parallel_worker=True)
        return _app(Workflow(name="twins", edges=[(START, twice, both_at_once, both)]))

    def handoff(self, base_url: str) -> Any:
        model = chat(base_url)
        clerk = LlmAgent(name="clerk", model=model, instruction="You are clerk.", description="Knows all parcels.")
        return _app(LlmAgent(name="front", model=model, instruction="You are front.", sub_agents=[clerk]))

    def transfer(self) -> Reply:
        return call_tool("transfer_to_agent", id="call_clerk", agent_name="clerk")

    def retrying(self, base_url: str) -> Mapping[str, Any]:
        worker = LlmAgent(name="worker", model=chat(base_url), instruction="Be good.")

        async def checked(ctx: Context, node_input: Any) -> str:
            answer = str(await ctx.run_node(worker, "Be good."))
            if answer != "good":
                raise ValueError("not good")
            return answer

        retry = RetryConfig(max_attempts=3, initial_delay=0.01, jitter=0)
        work = FunctionNode(func=checked, name="checked", rerun_on_resume=True, retry_config=retry)
        return {"RetryConfig": _app(Workflow(name="again", edges=[(START, work)]))}

    def run_compacting(self, base_url: str, tools: Sequence[Tool]) -> None:
        counter = LlmAgent(name="counter", model=chat(base_url), instruction="You count.", tools=list(tools))
        limits = quietly(EventsCompactionConfig, token_threshold=1500, event_retention_size=2)
        runner = InMemoryRunner(app=App(name="contract", root_agent=counter, events_compaction_config=limits))
        asyncio.run(_events(runner, "Count everything."))

    def remembering(self, base_url: str) -> Callable[[str], None]:
        runner = InMemoryRunner(app=_app(LlmAgent(name="assistant", model=chat(base_url))))
        asyncio.run(_open(runner))

        def ask(question: str) -> None:
            for _ in runner.run(user_id="u", session_id="s", new_message=message(question)):
                pass

        return ask

    def run(self, agent: Any, question: str) -> Outcome:
        runner = InMemoryRunner(app=agent)
        asyncio.run(_open(runner))
        events = list(runner.run(user_id="u", session_id="s", new_message=message(question)))
        return asyncio.run(_outcome(runner, events))

    async def arun(self, agent: Any, question: str) -> Outcome:
        runner = InMemoryRunner(app=agent)
        return await _outcome(runner, await _events(runner, question))

    async def stream(self, agent: Any, question: str) -> Streamed:
        runner = InMemoryRunner(app=agent)
        events = await _events(runner, question, SSE)
        shown = [part.text for e in events if e.partial and e.content for part in e.content.parts or () if part.text]
        return Streamed(pieces=shown, outcome=await _outcome(runner, events))


def _calendar() -> str:
    """Tell the day."""
    return "Monday"


def _app(root: Any) -> App:
    # By itself ADK lets a tool's exception pass; this plugin is its own way to tell the model.
    return App(name="contract", root_agent=root, plugins=[ReflectAndRetryToolPlugin(max_retries=3)])


def _choosing(choice: str) -> dict[str, Any]:
    mode = {"required": "ANY", "none": "NONE"}.get(choice, "ANY")
    names = None if choice in ("required", "none") else [choice]
    calling = types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode(mode), allowed_function_names=names)

    def end(tool: Any, args: Any, tool_context: Any, tool_response: Any) -> None:
        tool_context.actions.skip_summarization = True

    config = types.GenerateContentConfig(tool_config=types.ToolConfig(function_calling_config=calling))
    return {"generate_content_config": config, "after_tool_callback": end}


async def _open(runner: InMemoryRunner) -> None:
    await runner.session_service.create_session(app_name=runner.app_name, user_id="u", session_id="s")


async def _events(runner: InMemoryRunner, question: str, config: RunConfig | None = None) -> list[Any]:
    await _open(runner)
    asked: dict[str, Any] = {"user_id": "u", "session_id": "s", "new_message": message(question)}
    return [event async for event in runner.run_async(**asked, run_config=config)]


async def _outcome(runner: InMemoryRunner, events: list[Any]) -> Outcome:
    session = await runner.session_service.get_session(app_name=runner.app_name, user_id="u", session_id="s")
    assert session is not None
    whole = [event for event in events if not event.partial and event.content]
    said = [part.text for event in whole[-1:] for part in event.content.parts or () if part.text]
    typed = session.state.get("answer")
    return Outcome(
        text="".join(said),
        parsed=typed,
        raw="".join(said) if typed is not None else None,
        record=[in_any_order(events), in_any_order(session.events), plain(session.state)],
    )
