"""Every setting of an author's LLM is in effect, or said once a run, or refused by name."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from author_crews import llm
from crewai import LLM
from crewai.llms import base_llm
from crewai.llms.hooks.base import BaseInterceptor
from crewai.llms.providers.openai.completion import OpenAICompletion

from woodshed.errors import ConfigError
from woodshed.testing import ScriptedEngine, scripted_rollout
from woodshed.types.chat_settings import MODEL_SETTINGS, REQUEST_SETTINGS
from woodshed_crewai import instrument

NOWHERE = "http://127.0.0.1:9/v1"
PLAIN = {"messages", "model"}
KNOWN = {**REQUEST_SETTINGS, **MODEL_SETTINGS}
"""The row of a model's field."""
has_anthropic = pytest.mark.skipif(
    not importlib.util.find_spec("anthropic"), reason="the anthropic package is not installed"
)


class Interceptor(BaseInterceptor[Any, Any]):
    """An author's, which sees requests to the provider."""

    def on_outbound(self, message: Any) -> Any:
        return message

    def on_inbound(self, message: Any) -> Any:
        return message


def told(caplog: pytest.LogCaptureFixture, name: str) -> int:
    """Return how many lines were logged of a setting."""
    return sum(record.getMessage().startswith(f"{name!r} is a setting") for record in caplog.records)


def classes() -> list[Any]:
    """Return every model class of CrewAI that can be imported here."""
    found: list[Any] = [base_llm.BaseLLM, LLM, OpenAICompletion]
    for provider, name in (
        ("anthropic", "AnthropicCompletion"), ("gemini", "GeminiCompletion"), ("azure", "AzureCompletion"),
        ("bedrock", "BedrockCompletion"), ("openai_compatible", "OpenAICompatibleCompletion"),
        ("snowflake", "SnowflakeCompletion"),
    ):  # fmt: skip
        try:
            module = importlib.import_module(f"crewai.llms.providers.{provider}.completion")
        except ImportError:
            continue
        found.append(getattr(module, name))
    return found


@pytest.mark.parametrize("model", classes())
def test_every_field_of_a_model_class_has_a_row(model: Any) -> None:
    assert model.model_fields.keys() - KNOWN.keys() == set()


def test_what_only_requests_to_the_provider_know_is_named(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    instrument()
    model = llm(
        NOWHERE, timeout=0.001, interceptor=Interceptor(), default_query={"a": "b"}, store=True,
        reasoning_effort="low", logit_bias={"1": 5}, user="me", extra_body={"provider": {"order": ["a"]}, "top_k": 3},
        of_next_year=1,
    )  # fmt: skip
    with scripted_rollout(engine):
        for _ in range(2):
            model.call("What is it?")

    names = (
        "timeout", "interceptor", "default_headers", "default_query", "store", "logit_bias", "user", "provider",
        "reasoning_effort", "of_next_year",
    )  # fmt: skip
    assert [told(caplog, name) for name in names] == [1] * len(names)
    assert [set(seen.body) for seen in engine.requests] == [{*PLAIN, "top_k"}] * 2


@has_anthropic
def test_another_providers_settings_reach_the_policy_under_its_names(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    instrument()
    model = LLM(
        model="anthropic/claude-sonnet-4-5", api_key="author", top_k=7, timeout=0.001,
        thinking={"type": "enabled", "budget_tokens": 1024}, temperature=0.4, of_next_year=1,
    )  # fmt: skip
    with scripted_rollout(engine):
        for _ in range(2):
            model.call("What is it?")

    names = ("thinking", "timeout", "of_next_year")
    assert [told(caplog, name) for name in names] == [1] * len(names)
    assert [set(seen.body) for seen in engine.requests] == [{*PLAIN, "temperature", "top_k"}] * 2


def test_a_model_that_cannot_be_built_keeps_its_settings(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    instrument()
    with scripted_rollout(engine):
        model = LLM(model="groq/llama-3.3-70b", timeout=3, top_k=7, temperature=0.3, n=1, of_next_year=1)
        model.call("What is it?")

    assert [told(caplog, name) for name in ("timeout", "of_next_year")] == [1, 1]
    assert {"top_k": 7, "temperature": 0.3}.items() <= engine.requests[0].body.items()


def test_an_agent_that_cannot_be_the_same_is_refused(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine), pytest.raises(ConfigError, match="sets web_search_options="):
        llm(NOWHERE, web_search_options={}).call("x")

    assert engine.requests == ()


@pytest.mark.parametrize(
    "model",
    [
        lambda: LLM(model="gpt-4o", api_key="a", base_url=NOWHERE, temperature=0.2, max_tokens=9),
        pytest.param(lambda: LLM(model="anthropic/claude-sonnet-4-5", api_key="a"), marks=has_anthropic),
    ],
)
def test_of_a_plain_author_nothing_is_said(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture, model: Any
) -> None:
    instrument()
    with scripted_rollout(engine):
        model().call("What is it?")

    assert [record.getMessage() for record in caplog.records if record.name == "woodshed.capture"] == []
