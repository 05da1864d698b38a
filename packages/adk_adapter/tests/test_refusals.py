"""What cannot be trained is refused by name, before the first rollout where the agent's tree shows it."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from author_agents import QUESTION, Twice, add, agent, author_model, quietly
from google import genai
from google.adk.agents import BaseAgent, LlmAgent, SequentialAgent
from google.adk.agents.live_request_queue import LiveRequestQueue
from google.adk.agents.run_config import RunConfig
from google.adk.apps.app import App
from google.adk.code_executors import BuiltInCodeExecutor
from google.adk.events.event import Event
from google.adk.models.base_llm import BaseLlm
from google.adk.models.google_llm import Gemini
from google.adk.models.llm_request import LlmRequest
from google.adk.tools import google_search, url_context
from google.adk.tools.agent_tool import AgentTool
from google.adk.workflow import START, FunctionNode, Workflow
from google.genai import types
from running import QUIET, ask, runner_of, said

import woodshed
from woodshed.errors import ConfigError, LeakError
from woodshed.testing import ScriptedEngine, call_tools, in_order, scripted_rollout
from woodshed.types import ToolRequest
from woodshed_adk import AdkInstrumentor, instrument

pytestmark = QUIET

GEMINI = "gemini-2.5-flash"


def refused(built: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        instrument(built)
    assert not AdkInstrumentor().instrumented


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: "agent", r"expects a Google ADK agent or workflow, but got a builtins\.str"),
        (lambda: None, r"but got a builtins\.NoneType"),
        (lambda: LlmAgent, r"the class google\.adk\.agents\.llm_agent\.LlmAgent; pass an instance"),
        (lambda: App(name="app", root_agent=agent(GEMINI, "a")), r"apps\.app\.App; pass its `root_agent`"),
        (lambda: runner_of(agent(GEMINI, "a")), r"InMemoryRunner; pass its `agent`"),
    ],
)
def test_what_is_no_agent_is_refused(build: Any, message: str) -> None:
    refused(build(), message)


class Silent(BaseAgent):
    """Does something of its own."""

    client: Any = None

    async def _run_async_impl(self, ctx: Any) -> AsyncGenerator[Event, None]:
        return
        yield


def test_an_agent_with_no_model_anywhere_is_refused() -> None:
    refused(Silent(name="silent"), r"Silent 'silent' has no LlmAgent anywhere.*woodshed_adk\.instrument\(\)")
    refused(Workflow(name="w", edges=[(START, FunctionNode(func=lambda: 1, name="f"))]), "Workflow 'w' has no LlmAgent")


def test_a_deterministic_agent_beside_a_model_is_accepted() -> None:
    line = quietly(SequentialAgent, name="line", sub_agents=[agent(GEMINI, "a"), Silent(name="silent")])

    assert instrument(line) is line


@pytest.mark.parametrize(
    "client",
    [
        lambda: openai.OpenAI(api_key="k"),
        lambda: genai.Client(api_key="k"),
        lambda: Gemini(model=GEMINI),
    ],
)
def test_an_agent_with_a_client_of_its_own_is_refused_deep_in_the_tree(client: Any) -> None:
    own = Silent(name="own", client=client())
    line = quietly(SequentialAgent, name="line", sub_agents=[agent(GEMINI, "a"), own])
    boss = agent(GEMINI, "boss", tools=[AgentTool(line)])
    name = type(own.client).__name__

    refused(Workflow(name="w", edges=[(START, boss)]), rf"Silent 'own' cannot be trained: .*\(client={name}\)")


def stand_in(kind: str, module: str) -> Any:
    """Return an agent of a class of ADK's whose own package is not installed here."""
    return type(kind, (Silent,), {"__module__": module, "__annotations__": {}})(name="there")


@pytest.mark.parametrize(
    ("kind", "module", "why"),
    [
        ("RemoteA2aAgent", "google.adk.a2a.agent._remote_a2a_agent", "its model runs in another process"),
        ("LangGraphAgent", "google.adk.agents.langgraph_agent", r"woodshed_langgraph\.wrap\(graph\)"),
        ("AntigravityAgent", "google.adk.labs.antigravity._antigravity_agent", "an SDK of its own"),
    ],
)
def test_adks_agents_that_ask_elsewhere_are_refused(kind: str, module: str, why: str) -> None:
    line = quietly(SequentialAgent, name="line", sub_agents=[agent(GEMINI, "a"), stand_in(kind, module)])

    refused(line, f"{kind} 'there' cannot be trained: .*{why}")


def managed() -> Any:
    from google.adk.agents._managed_agent import ManagedAgent

    return quietly(ManagedAgent, name="hosted", agent_id="agents/1")


def test_a_managed_agent_is_refused() -> None:
    refused(managed(), "ManagedAgent 'hosted' cannot be trained: its model runs on Google's servers")


async def test_an_agent_that_asks_elsewhere_is_stopped_also_where_the_tree_was_not_walked(
    engine: ScriptedEngine,
) -> None:
    instrument()
    with scripted_rollout(engine):
        (error,) = (await ask(runner_of(managed()), "hi"))[-1:]

    assert isinstance(error, ConfigError)
    assert "ManagedAgent 'hosted' cannot be trained" in str(error)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"tools": [google_search]}, "GoogleSearchTool"),
        ({"tools": [add, url_context]}, "UrlContextTool"),
        ({"code_executor": BuiltInCodeExecutor()}, "BuiltInCodeExecutor"),
    ],
)
async def test_tools_that_googles_servers_run_are_refused(
    engine: ScriptedEngine, options: dict[str, Any], kind: str
) -> None:
    searcher = agent(GEMINI, "searcher", **options)
    refused(searcher, f"LlmAgent 'searcher' uses {kind}, which Google's servers run themselves.*function that does")

    instrument()
    with scripted_rollout(engine):
        (error,) = (await ask(runner_of(searcher), "hi"))[-1:]
    assert isinstance(error, ConfigError)
    assert "Google's servers run themselves" in str(error)
    assert len(engine.requests) == 0


async def test_a_picture_is_refused_before_anything_is_sent(engine: ScriptedEngine) -> None:
    instrument()
    runner = runner_of(agent(GEMINI, "a"))
    await runner.session_service.create_session(app_name="app", user_id="u", session_id="s")
    picture = types.Part(inline_data=types.Blob(mime_type="image/png", data=b"x"))
    with scripted_rollout(engine), pytest.raises(ConfigError, match="data of type 'image/png'"):
        async for _ in runner.run_async(
            user_id="u", session_id="s", new_message=types.Content(role="user", parts=[picture])
        ):
            pass

    assert len(engine.requests) == 0


@pytest.mark.parametrize("arguments", ['{"a": 1, "b": ', "[1, 2]"])
async def test_a_tool_is_never_run_with_other_arguments_than_the_model_gave(
    engine: ScriptedEngine, arguments: str
) -> None:
    ran = []

    def anything(**given: Any) -> str:
        """Take anything."""
        ran.append(given)
        return "ran"

    engine.script = in_order(call_tools(ToolRequest(id="c1", name="anything", arguments=arguments)))
    built = instrument(agent(GEMINI, "a", tools=[anything]))
    with scripted_rollout(engine) as rollout:
        (event,) = await ask(runner_of(built), "hi")

    assert (event.error_code, ran) == ("MALFORMED_FUNCTION_CALL", [])
    trajectory = engine.trajectory(rollout)
    assert trajectory.tool_calls == ()
    assert trajectory.calls[0].tokens.completions[0].message.tool_requests[0].arguments == arguments


async def test_a_live_session_is_refused(engine: ScriptedEngine) -> None:
    runner = runner_of(instrument(agent(GEMINI, "a")))
    await runner.session_service.create_session(app_name="app", user_id="u", session_id="s")
    with scripted_rollout(engine), pytest.raises(ConfigError, match=r"live \(bidirectional\).*Runner\.run_async"):
        async for _ in runner.run_live(user_id="u", session_id="s", live_request_queue=LiveRequestQueue()):
            pass


async def test_compositional_function_calling_is_refused_since_it_is_live(engine: ScriptedEngine) -> None:
    runner = runner_of(instrument(agent("gemini-2.5-flash", "a")))
    with scripted_rollout(engine):
        (error,) = (await ask(runner, "hi", run_config=quietly(RunConfig, support_cfc=True)))[-1:]

    assert isinstance(error, ConfigError)
    assert "live (bidirectional)" in str(error)


needs_no_litellm = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is not None, reason="litellm is installed, so that ADK can build this model"
)


@pytest.mark.parametrize("name", [pytest.param("openai/gpt-4o", marks=needs_no_litellm), "no-such-model"])
async def test_a_model_that_cannot_be_built_is_trained_in_a_rollout_and_adks_error_outside(
    engine: ScriptedEngine, name: str
) -> None:
    built = agent(name, "adder", 'add {"a": 1, "b": 2} | It is three', tools=[add])
    child = agent("", "child", "never", description="Inherits the model.")
    built.sub_agents.append(child)
    child.parent_agent = built
    before = built.model, (built.__pydantic_private__ or {}).copy()
    instrument(built)
    with scripted_rollout(engine) as rollout:
        assert said(await ask(runner_of(built), QUESTION)) == ["It is three"]
        assert child.canonical_model.model == name
        with woodshed.untracked():
            (inside,) = (await ask(runner_of(built), QUESTION))[-1:]
    (outside,) = (await ask(runner_of(built), QUESTION))[-1:]

    assert (type(inside), str(inside)) == (type(outside), str(outside))
    assert isinstance(outside, ValueError)
    assert f"Model {name} not found" in str(outside)
    assert {note.author_model for note in rollout.recorder.notes()} == {name}
    assert (built.model, built.__pydantic_private__) == before


async def test_a_call_past_adk_to_google_is_stopped_in_a_rollout(engine: ScriptedEngine) -> None:
    client, asked = (
        genai.Client(api_key="k"),
        LlmRequest(model=GEMINI, contents=[types.Content(parts=[types.Part(text="x")])]),
    )
    own: BaseLlm = Gemini(model=GEMINI)
    own.__dict__["api_client"] = client
    instrument()
    with scripted_rollout(engine):
        with pytest.raises(LeakError, match=r"'gemini-2\.5-flash'.*goes past the policy.*woodshed\.untracked"):
            client.models.generate_content(model=GEMINI, contents="x")
        with pytest.raises(LeakError, match="goes past the policy"):
            await client.aio.models.generate_content(model=GEMINI, contents="x")
        with pytest.raises(LeakError, match="goes past the policy"):
            _ = [response async for response in own.generate_content_async(asked)]


async def test_a_call_past_adk_with_the_openai_sdk_is_stopped_in_a_rollout(engine: ScriptedEngine) -> None:
    elsewhere = author_model("http://127.0.0.1:1/v1")
    asked = LlmRequest(contents=[types.Content(role="user", parts=[types.Part(text="x")])])
    instrument()
    with scripted_rollout(engine), pytest.raises(LeakError, match=r"goes to http://127\.0\.0\.1:1/v1"):
        _ = [response async for response in elsewhere.generate_content_async(asked)]


async def test_an_agent_that_is_not_to_be_trained_asks_its_own_model(engine: ScriptedEngine) -> None:
    judge = agent(author_model(engine.base_url), "judge")
    instrument()
    with scripted_rollout(engine) as rollout, woodshed.untracked():
        assert said(await ask(runner_of(judge), "hi")) == ["You said: hi"]

    assert {seen.headers["authorization"] for seen in engine.requests} == {"Bearer author"}
    assert rollout.recorder.notes() == ()


def test_an_orchestrating_agent_of_the_authors_own_is_accepted() -> None:
    one, two = agent(GEMINI, "one"), agent(GEMINI, "two")
    twice = Twice(name="twice", one=one, two=two)

    assert instrument(twice) is twice
