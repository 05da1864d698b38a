"""Every setting of an author's chat model is in effect, or said once a run, or refused by name."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from author_graphs import chat
from langchain_anthropic import ChatAnthropic
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_openai import AzureChatOpenAI, ChatOpenAI

from woodshed.errors import ConfigError
from woodshed.testing import ScriptedEngine, scripted_rollout
from woodshed.types.chat_settings import MODEL_SETTINGS, REQUEST_SETTINGS
from woodshed_langgraph import instrument

NOWHERE = "http://127.0.0.1:9"
PLAIN = {"messages", "model", "stream"}
KNOWN = {**REQUEST_SETTINGS, **MODEL_SETTINGS}
"""The row of a model's field."""
DROPPED = [name for name in ChatOpenAI.model_fields if name in KNOWN and KNOWN[name].fate == "dropped"]


def told(caplog: pytest.LogCaptureFixture, name: str) -> int:
    """Return how many lines were logged of a setting."""
    return sum(record.getMessage().startswith(f"{name!r} is a setting") for record in caplog.records)


@pytest.mark.parametrize("model", [ChatOpenAI, AzureChatOpenAI, ChatAnthropic])
def test_every_field_of_a_model_class_has_a_row(model: Any) -> None:
    assert model.model_fields.keys() - KNOWN.keys() == set()


@pytest.mark.parametrize("name", DROPPED)
def test_a_field_without_effect_is_said_once_and_not_sent(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    instrument()
    author = chat(NOWHERE).model_copy(update={name: {"any": 1} if name == "reasoning" else "any"})
    with scripted_rollout(engine):
        for _ in range(2):
            author.invoke("x")

    assert [set(seen.body) for seen in engine.requests] == [PLAIN] * 2
    assert told(caplog, name) == 1


@pytest.mark.parametrize("form", ["field", "bound"])
def test_a_providers_own_fields_are_said_once_and_not_sent(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    instrument()
    own = {"provider": {"order": ["a"]}, "transforms": ["middle-out"], "of_next_year": 1, "top_k": 7}
    author: Any = chat(NOWHERE, extra_body=own) if form == "field" else chat(NOWHERE)
    author = author.bind(extra_body=own) if form == "bound" else author
    with scripted_rollout(engine):
        for _ in range(2):
            author.invoke("x")

    assert [set(seen.body) for seen in engine.requests] == [{*PLAIN, "top_k"}] * 2
    assert [told(caplog, name) for name in own] == [1, 1, 1, 0]


def test_what_only_requests_to_the_provider_know_is_named(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    instrument()
    with httpx.Client() as http, scripted_rollout(engine):
        author = chat(
            NOWHERE, timeout=0.001, http_client=http, default_headers={"x-a": "b"}, rate_limiter=InMemoryRateLimiter(),
            logit_bias={"50256": -100}, reasoning_effort="high",
        )  # fmt: skip
        author.invoke("x", timeout=0.001)

    names = ("request_timeout", "timeout", "http_client", "default_headers", "rate_limiter", "logit_bias")
    assert [told(caplog, name) for name in (*names, "reasoning_effort")] == [1] * 7
    assert set(engine.requests[0].body) == PLAIN
    assert "x-a" not in engine.requests[0].headers


def test_another_providers_settings_reach_the_policy_under_its_names(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    instrument()
    author = ChatAnthropic(
        model="claude-sonnet-4-5", api_key="a", base_url=NOWHERE, top_k=5, stop=["END"], timeout=1.0,  # type: ignore[call-arg, arg-type]
        thinking={"type": "enabled", "budget_tokens": 1024}, betas=["b"],
    )  # fmt: skip
    with scripted_rollout(engine):
        author.invoke("x")

    assert (engine.requests[0].body["top_k"], engine.requests[0].body["stop"]) == (5, ["END"])
    assert [told(caplog, name) for name in ("thinking", "betas", "default_request_timeout")] == [1, 1, 1]


class NextYear(ChatOpenAI):
    """A model class with a field that is in no row."""

    foresight: str | None = None


def test_a_newer_field_is_said_once_and_not_passed_on(engine: ScriptedEngine, caplog: pytest.LogCaptureFixture) -> None:
    instrument()
    author = NextYear(model="m", api_key="a", base_url=NOWHERE, foresight="far")  # type: ignore[arg-type]
    with scripted_rollout(engine):
        for _ in range(2):
            author.invoke("x")

    assert told(caplog, "foresight") == 1 and "not known to woodshed; not passed on" in caplog.text


def test_an_agent_that_cannot_be_the_same_is_refused(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine), pytest.raises(ConfigError, match="sets web_search_options="):
        chat(NOWHERE, model_kwargs={"web_search_options": {}}).invoke("x")

    assert engine.requests == ()


@pytest.mark.parametrize(
    "author",
    [
        lambda: chat(NOWHERE, temperature=0.2, stop=["x"]),
        lambda: ChatAnthropic(model="claude-sonnet-4-5", api_key="a", base_url=NOWHERE),
        lambda: AzureChatOpenAI(azure_deployment="d", azure_endpoint=NOWHERE, api_key="k", api_version="2024-10-21"),
    ],
)
def test_of_a_plain_author_nothing_is_said(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture, author: Any
) -> None:
    instrument()
    with scripted_rollout(engine):
        author().invoke("x")

    assert [record.getMessage() for record in caplog.records if record.name == "woodshed.capture"] == []
