"""Authors of other providers' models: same graph, same answers, their own name towards callbacks."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from author_graphs import CALLS, GRAPHS, QUESTION, add, chat
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_anthropic import ChatAnthropic
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListChatModel, FakeListLLM
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import AzureChatOpenAI
from langgraph.cache.memory import InMemoryCache as NodeCache
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import CachePolicy
from pydantic import SecretStr

import woodshed
from woodshed.errors import ConfigError, LeakError
from woodshed.testing import ScriptedEngine, say, scripted_rollout
from woodshed_langgraph import instrument, wrap

NOWHERE = "http://127.0.0.1:9"


class HouseModel(BaseChatModel):
    """A model its author wrote, which answers without any network and cannot stream."""

    model: str = "house-1"
    temperature: float = 0.25

    @property
    def _llm_type(self) -> str:
        return "house"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        raise AssertionError("the author's own model was called")

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=tools, **kwargs)


def anthropic() -> Any:
    return ChatAnthropic(model="claude-sonnet-4-5", api_key="author", base_url=NOWHERE, max_retries=0)  # type: ignore[call-arg, arg-type]


AUTHORS: dict[str, Any] = {
    "anthropic": anthropic,
    "init_chat_model": lambda: init_chat_model("anthropic:claude-sonnet-4-5", api_key="author", base_url=NOWHERE),
    "azure": lambda: AzureChatOpenAI(
        azure_deployment="d", azure_endpoint=NOWHERE, api_key=SecretStr("k"), api_version="2024-10-21", model="gpt-4o"
    ),
    "responses": lambda: chat(NOWHERE, use_responses_api=True, reasoning={"effort": "low"}),
    "house": HouseModel,
}
SKIPPED = {("house", "structured")}
"""A model without structured output of its own cannot offer it here either."""


def contents(result: Any) -> list[str]:
    """Return what a graph answered, as text."""
    if not isinstance(result, dict):
        return [str(result)]
    messages = [m.text for m in result["messages"] if isinstance(m, BaseMessage)]
    return messages + sorted(result.get("jokes", []))


@pytest.mark.filterwarnings(
    "ignore:Unrecognized structured output method:UserWarning"
)  # ChatAnthropic has no JSON mode
@pytest.mark.parametrize("name", [n for n in GRAPHS if n not in ("by_hand_async", "agent_provider_strategy")])
@pytest.mark.parametrize("author", AUTHORS)
def test_another_providers_graph_is_answered_by_the_policy(engine: ScriptedEngine, author: str, name: str) -> None:
    if (author, name) in SKIPPED:
        pytest.skip("the model offers no structured output of its own")
    instrument()
    with scripted_rollout(engine) as rollout:
        expected = GRAPHS[name](chat(engine.base_url)).invoke(QUESTION)
        ours = GRAPHS[name](AUTHORS[author]()).invoke(QUESTION)

    assert contents(ours) == contents(expected)
    assert len(engine.trajectory(rollout).calls) == 2 * CALLS[name]


async def test_another_providers_graph_streams_asynchronously(engine: ScriptedEngine) -> None:
    graph: Any = wrap(create_agent(anthropic(), [add]))
    with scripted_rollout(engine):
        chunks = [chunk async for chunk, _ in graph.astream(QUESTION, stream_mode="messages")]

    assert "The result is 3" in "".join(chunk.text for chunk in chunks)


def test_an_anthropic_author_with_provider_strategy_gets_its_schema(engine: ScriptedEngine) -> None:
    graph = wrap(GRAPHS["agent_provider_strategy"](anthropic()))
    with scripted_rollout(engine):
        result = graph.invoke(QUESTION)

    assert result["structured_response"].text == "three"
    assert engine.requests[0].body["response_format"]["type"] == "json_schema"


def test_the_author_keeps_its_name_towards_callbacks(engine: ScriptedEngine) -> None:
    graph: Any = wrap(create_agent(anthropic(), []))
    with scripted_rollout(engine) as rollout:

        async def events() -> list[Any]:
            return [
                e async for e in graph.astream_events(QUESTION, version="v2") if e["event"] == "on_chat_model_start"
            ]

        (event,) = asyncio.run(events())

    assert (event["name"], event["metadata"]["ls_provider"]) == ("ChatAnthropic", "anthropic")
    assert rollout.recorder.notes()[0].author_model == "claude-sonnet-4-5"
    assert engine.requests[0].body["model"] == "claude-sonnet-4-5"


def test_a_limit_from_the_models_card_is_not_sent_and_the_authors_own_is(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine):
        anthropic().invoke("x")
        ChatAnthropic(model="claude-sonnet-4-5", api_key="a", max_tokens=99, temperature=0.5).invoke("x")  # type: ignore[call-arg, arg-type]

    card, own = (seen.body for seen in engine.requests)
    assert "max_tokens" not in card and "max_completion_tokens" not in card
    assert (own["max_completion_tokens"], own["temperature"]) == (99, 0.5)


def test_settings_of_the_provider_are_not_sent(engine: ScriptedEngine, caplog: pytest.LogCaptureFixture) -> None:
    instrument()
    with scripted_rollout(engine):
        chat(NOWHERE, store=True, model_kwargs={"user": "u1"}, service_tier="flex").invoke("x")

    assert set(engine.requests[0].body) == {"messages", "model", "stream"}
    assert "'service_tier' is a setting of the author's provider" in caplog.text


def test_a_tool_only_the_provider_can_run_is_refused_by_name(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine):
        with pytest.raises(ConfigError, match=r"'web_search_20250305'.*function"):
            anthropic().bind_tools([{"type": "web_search_20250305", "name": "web_search"}]).invoke("x")
        with pytest.raises(ConfigError, match=r"'web_search'.*function"):
            chat(NOWHERE).bind_tools([{"type": "web_search"}]).invoke("x")

    assert engine.requests == ()


def test_a_text_completion_model_is_refused_inside_a_rollout_only(engine: ScriptedEngine) -> None:
    instrument()
    model = FakeListLLM(responses=["own"] * 3)
    with scripted_rollout(engine):
        with pytest.raises(ConfigError, match="FakeListLLM is a text-completion model"):
            model.invoke("x")
        with woodshed.untracked():
            assert model.invoke("x") == "own"

    assert model.invoke("x") == "own"


def test_the_bare_sdk_is_stopped_before_it_reaches_the_authors_endpoint(engine: ScriptedEngine) -> None:
    instrument()
    ask: Any = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    with ScriptedEngine(lambda request: say("theirs")) as theirs:
        bare = openai.OpenAI(base_url=theirs.base_url, api_key="author")
        with scripted_rollout(engine) as rollout:
            with pytest.raises(LeakError, match=r"goes to http://127.*current_rollout\(\)"):
                bare.chat.completions.create(**ask)
            with woodshed.untracked():
                bare.chat.completions.create(**ask)
            openai.OpenAI(base_url=rollout.base_url, api_key=rollout.secret).chat.completions.create(**ask)
        bare.chat.completions.create(**ask)

        assert (len(theirs.requests), len(engine.requests)) == (2, 1)


def test_an_untracked_model_is_the_authors_own_and_is_not_recorded(engine: ScriptedEngine) -> None:
    own = FakeListChatModel(responses=["own"])
    instrument()
    with scripted_rollout(engine) as rollout:
        with woodshed.untracked():
            assert own.invoke("x").content == "own"
        assert own.invoke("x").content == "You said: x"

    assert len(rollout.recorder.notes()) == 1


def test_a_global_cache_serves_no_other_policys_answers(engine: ScriptedEngine) -> None:
    set_llm_cache(InMemoryCache())
    try:
        instrument()
        with scripted_rollout(engine):
            for _ in range(2):
                chat(NOWHERE).invoke("x")
    finally:
        set_llm_cache(None)

    assert len(engine.requests) == 2


def test_a_node_cache_is_bypassed_inside_a_rollout_and_kept_outside(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    model = chat(engine.base_url)
    graph = StateGraph(MessagesState)
    graph.add_node("node", lambda s: {"messages": [model.invoke("x")]}, cache_policy=CachePolicy())
    graph.add_edge(START, "node")
    cached: Any = wrap(graph.compile(cache=NodeCache()))
    for _ in range(2):
        cached.invoke({"messages": []})
    outside = len(engine.requests)
    with scripted_rollout(engine) as rollout:
        for _ in range(2):
            cached.invoke({"messages": []})
    cached.invoke({"messages": []})

    assert outside == 1
    assert len(engine.trajectory(rollout).calls) == 2
    assert len(engine.requests) == 3
    assert "node cache (InMemoryCache) is bypassed" in caplog.text


def test_a_model_that_cannot_stream_streams_one_piece_as_before(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine):
        pieces = [chunk.text for chunk in HouseModel().stream("hi") if chunk.text]

    assert pieces == ["You said: hi"]
    assert not engine.requests[0].body["stream"]
    assert engine.requests[0].body["temperature"] == 0.25


def test_a_history_in_anthropics_blocks_is_sent_as_text(engine: ScriptedEngine) -> None:
    instrument()
    history = [("user", "a"), AIMessage(content=[{"type": "text", "text": "b"}]), ("user", "c")]
    with scripted_rollout(engine) as rollout:
        anthropic().invoke(history)

    (call,) = engine.trajectory(rollout).calls
    assert [m.content for m in call.tokens.messages] == ["a", "b", "c"]


def test_choices_of_an_n_above_one_are_one_call(engine: ScriptedEngine) -> None:
    engine.script = lambda request: [say(str(i)) for i in range(request.get("n", 1))]
    instrument()
    with scripted_rollout(engine) as rollout:
        result = chat(NOWHERE, n=2).generate([[HumanMessage("x")]])

    generations = result.generations[0]
    assert [g.text for g in generations if isinstance(g, ChatGeneration)] == ["0", "1"]
    assert len(engine.trajectory(rollout).calls[0].tokens.completions) == 2
