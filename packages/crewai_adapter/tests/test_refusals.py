"""What cannot be practised is refused with a message that says what to do; nothing reaches the author's provider."""

from __future__ import annotations

import importlib.util
import threading
from typing import Any

import openai
import pytest
from author_crews import QUESTION, add, agent, llm, one_agent, task
from crewai import LLM, Crew
from crewai.llms.base_llm import BaseLLM

import woodshed
from woodshed.errors import ConfigError, LeakError
from woodshed.testing import ScriptedEngine, scripted_rollout
from woodshed_crewai import instrument


def test_a_call_without_a_rollout_leaks_nothing_while_others_are_active(engine: ScriptedEngine) -> None:
    instrument()
    model = llm(engine.base_url)
    ready, go = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def stray() -> None:
        ready.set()
        go.wait(5)
        try:
            model.call("outside")
        except LeakError as error:
            errors.append(error)

    thread = threading.Thread(target=stray)
    thread.start()
    ready.wait(5)
    with scripted_rollout(engine):
        go.set()
        thread.join()

    assert len(engine.requests) == 0
    assert "OpenAICompletion.call() has no rollout although 1 rollouts are active" in str(errors[0])


def test_an_untracked_call_goes_to_the_authors_model(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine) as rollout, woodshed.untracked():
        llm(engine.base_url).call("judge")

    assert [seen.headers["authorization"] for seen in engine.requests] == ["Bearer author"]
    assert rollout.recorder.notes() == ()


def test_the_bare_sdk_towards_the_authors_endpoint_is_stopped(engine: ScriptedEngine) -> None:
    instrument()
    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="author", max_retries=0)
    with scripted_rollout(engine), pytest.raises(LeakError, match=r"woodshed\.current_rollout\(\)"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize("is_streamed", [False, True])
def test_tools_that_the_provider_runs_are_refused_by_name(engine: ScriptedEngine, is_streamed: bool) -> None:
    instrument()
    model = llm(engine.base_url, api="responses", builtin_tools=["web_search"], stream=is_streamed)
    with scripted_rollout(engine), pytest.raises(ConfigError, match=r"'web_search', which the model's provider runs"):
        model.call("x")
    extra = llm(engine.base_url, additional_params={"tools": [{"type": "file_search"}]}, stream=is_streamed)
    with scripted_rollout(engine), pytest.raises(ConfigError, match=r"'file_search'.*Give the agent a tool that does"):
        extra.call("x")

    assert engine.requests == ()


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_messages_with_more_than_text_are_refused(engine: ScriptedEngine, kind: str) -> None:
    instrument()
    parts = [{"type": "text", "text": "look"}, {"type": kind, kind: {"url": "x"}}]
    with scripted_rollout(engine), pytest.raises(ConfigError, match=rf"part of type '{kind}'; the policy reads text"):
        llm(engine.base_url).call([{"role": "user", "content": parts}])

    assert engine.requests == ()


def test_attached_files_are_refused(engine: ScriptedEngine) -> None:
    instrument()
    message: Any = {"role": "user", "content": "look", "files": {"a": b"x"}}
    with scripted_rollout(engine), pytest.raises((ConfigError, ValueError), match=r"files|multimodal"):
        llm(engine.base_url).call([message])

    assert engine.requests == ()


def test_without_a_key_the_error_outside_is_crewais_and_inside_there_is_none(engine: ScriptedEngine) -> None:
    instrument()
    model = LLM(model="openai/gpt-4o")
    with pytest.raises(ValueError, match="OPENAI_API_KEY is required"):
        model.call("x")
    with scripted_rollout(engine):
        assert model.call("What is it?") == "3 for What is it?"


# No package, no key, no package for the fallback: CrewAI cannot build these here.
UNBUILDABLE = ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", "deepseek/deepseek-chat", "groq/llama-3.3-70b")


@pytest.mark.parametrize("name", UNBUILDABLE)
def test_a_model_that_cannot_be_built_is_an_error_outside_and_the_policy_inside(
    engine: ScriptedEngine, name: str
) -> None:
    instrument()
    with pytest.raises(ImportError, match=r"(?i)native provider|LiteLLM"):
        LLM(model=name)
    with scripted_rollout(engine) as rollout:
        by = agent(name)
        crew = Crew(agents=[by], tasks=[task(by)])
        assert crew.kickoff(inputs=QUESTION).raw == "3 for What is 1 + 2?"
    assert [note.author_model for note in rollout.recorder.notes()] == [name]

    kept: Any = by.llm
    with pytest.raises(ConfigError, match=r"was built inside a rollout.* cannot be called outside: .+"):
        kept.call("x")


@pytest.mark.skipif(not importlib.util.find_spec("anthropic"), reason="the anthropic package is not installed")
@pytest.mark.parametrize("stream", [False, True])
def test_another_providers_model_is_answered_by_the_policy(engine: ScriptedEngine, stream: bool) -> None:
    instrument()
    model = LLM(model="anthropic/claude-sonnet-4-5", api_key="author", temperature=0.4, stream=stream)
    by = agent(model, tools=[add])
    with scripted_rollout(engine) as rollout:
        assert Crew(agents=[by], tasks=[task(by)]).kickoff(inputs=QUESTION).raw == "3 for What is 1 + 2?"

    calls = engine.trajectory(rollout).calls
    assert [call.tokens.sampling for call in calls] == [{"temperature": 0.4}] * 2
    assert [seen.body.get("stream", False) for seen in engine.requests] == [stream] * 2
    assert model.get_token_usage_summary().successful_requests == 2


def test_settings_that_no_model_takes_stay_an_error_inside(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine), pytest.raises(ImportError):
        LLM(model=UNBUILDABLE[0], temperature="hot")


@pytest.mark.skipif(not hasattr(BaseLLM, "get_input_tokens_count"), reason="this CrewAI does not count tokens")
def test_counting_tokens_asks_nobody(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine):
        count: Any = llm(engine.base_url).get_input_tokens_count([{"role": "user", "content": "four"}])  # type: ignore[attr-defined]

    assert count >= 1
    assert engine.requests == ()


def test_an_agent_without_a_key_outside_any_rollout_is_as_ever(engine: ScriptedEngine) -> None:
    instrument()
    assert one_agent(engine.base_url).kickoff(inputs=QUESTION).raw == "3 for What is 1 + 2?"
    assert {seen.headers["authorization"] for seen in engine.requests} == {"Bearer author"}
