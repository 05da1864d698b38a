"""Every setting of an author's model and of its requests is in effect, or said once a run, or refused by name."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import pytest
from google.adk.models.base_llm import BaseLlm
from google.adk.models.google_llm import Gemini
from google.adk.models.llm_request import LlmRequest
from google.genai import types
from pydantic import BaseModel, PrivateAttr

from woodshed.errors import ConfigError
from woodshed.testing import ScriptedEngine, scripted_rollout
from woodshed.types.chat_settings import MODEL_SETTINGS, REQUEST_SETTINGS
from woodshed_adk._substitute import TrainableLlm

KNOWN = {**REQUEST_SETTINGS, **MODEL_SETTINGS}
"""The row of a field."""
TOOL = types.Tool(function_declarations=[types.FunctionDeclaration(name="look", description="Look.")])


class Keywords(BaseLlm):
    """A model that keeps its keyword arguments as `LiteLlm` does, which needs a package of its own to be built."""

    _additional_args: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, model: str, **kwargs: Any) -> None:
        super().__init__(model=model)
        self._additional_args = dict(kwargs)

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
        raise AssertionError("the author's own model was called")
        yield


def lite(model: str, **kwargs: Any) -> Any:
    """Return a `LiteLlm`."""
    pytest.importorskip("litellm", reason="litellm is not installed, and ADK cannot build a LiteLlm")
    return importlib.import_module("google.adk.models.lite_llm").LiteLlm(model, **kwargs)


def classes() -> list[Any]:
    """Return every model and config class of this ADK that can be imported."""
    found: list[Any] = [BaseLlm, Gemini, types.GenerateContentConfig, types.HttpOptions]
    for module, names in (
        ("google.adk.models.anthropic_llm", ("AnthropicLlm", "Claude", "AnthropicGenerateContentConfig")),
        ("google.adk.models.apigee_llm", ("ApigeeLlm",)),
        ("google.adk.models.lite_llm", ("LiteLlm",)),
        ("google.adk.models.gemma_llm", ("Gemma",)),
        (
            "google.adk.integrations.openai",
            ("OpenAILlm", "OpenAIResponsesLlm", "AzureOpenAIResponsesLlm", "OpenAIGenerateContentConfig"),
        ),
    ):
        try:
            found += [kind for name in names if (kind := getattr(importlib.import_module(module), name, None))]
        except ImportError:
            continue
    return found


def told(caplog: pytest.LogCaptureFixture, name: str) -> int:
    """Return how many lines were logged of a setting."""
    return sum(record.getMessage().startswith(f"{name!r} is a setting") for record in caplog.records)


async def asked(
    engine: ScriptedEngine, author: Any, *, stream: bool = False, times: int = 1, **config: Any
) -> dict[str, Any]:
    """Return the body that reaches the engine when the policy answers for `author`."""
    with scripted_rollout(engine) as rollout:
        for _ in range(times):
            request = LlmRequest(
                model=author.model,
                contents=[types.Content(role="user", parts=[types.Part(text="hi")])],
                config=types.GenerateContentConfig(**config),
            )
            policy = TrainableLlm(model=author.model, rollout=rollout, agent="clerk", author=author)
            async for _ in policy.generate_content_async(request, stream=stream):
                pass
    body = engine.requests[-1].body
    return {name: body[name] for name in body if name not in ("model", "messages", "stream")}


@pytest.mark.parametrize("kind", classes())
def test_every_field_of_a_class_has_a_row(kind: Any) -> None:
    assert kind.model_fields.keys() - KNOWN.keys() == set()


def test_every_argument_of_litellm_has_a_row() -> None:
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    names = importlib.import_module("inspect").signature(litellm.acompletion).parameters.keys() - {"kwargs"}

    assert names - KNOWN.keys() == set()


KEPT: dict[str, Any] = {
    "temperature": 0.3, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 4, "stop": ["!"], "max_tokens": 9,
    "presence_penalty": 0.1, "frequency_penalty": 0.2, "repetition_penalty": 1.1, "logprobs": True, "top_logprobs": 2,
    "response_format": {"type": "json_object"}, "tool_choice": "required", "parallel_tool_calls": False,
}  # fmt: skip
DROPPED: dict[str, Any] = {
    "reasoning_effort": "low", "timeout": 3, "user": "me", "logit_bias": {"1": 5}, "store": True, "of_next_year": 1,
    "fallbacks": ["a"], "thinking": {"type": "enabled"}, "caching": True,
}  # fmt: skip


@pytest.mark.parametrize("model", [Keywords, lite])
async def test_the_keyword_arguments_of_litellm_are_in_effect_or_said(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture, model: Any
) -> None:
    own = {"extra_body": {"provider": {"order": ["a"]}, "min_tokens": 2}, "api_base": "http://127.0.0.1:9", "n": 1}
    author = model("openai/gpt-4o", **KEPT, **DROPPED, **own)
    body = await asked(engine, author, times=2, tools=[TOOL])

    del body["tools"]
    assert body == {**KEPT, "min_tokens": 2, "n": 1}
    assert [told(caplog, name) for name in (*DROPPED, "provider")] == [1] * (len(DROPPED) + 1)


@pytest.mark.parametrize("model", [Keywords, lite])
async def test_a_request_wins_over_its_model_and_tool_settings_need_tools(engine: ScriptedEngine, model: Any) -> None:
    author = model("openai/gpt-4o", **KEPT, max_completion_tokens=8)
    body = await asked(engine, author, stream=True, temperature=0.7, top_k=3, max_output_tokens=5)

    assert (body["temperature"], body["top_k"], body["max_tokens"]) == (0.7, 3, 5)
    assert {"tool_choice", "parallel_tool_calls", "max_completion_tokens"} & body.keys() == set()


class Answer(BaseModel):
    text: str


@pytest.mark.parametrize("model", [Keywords, lite])
async def test_a_class_as_the_response_format_is_its_schema(engine: ScriptedEngine, model: Any) -> None:
    body = await asked(engine, model("openai/gpt-4o", response_format=Answer))

    assert body["response_format"]["json_schema"]["schema"]["properties"].keys() == {"text"}


@pytest.mark.parametrize("setting", [{"functions": [{"name": "f"}]}, {"web_search_options": {}}, {"n": 2}])
async def test_an_agent_that_cannot_be_the_same_is_refused(engine: ScriptedEngine, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"sets {next(iter(setting))}="):
        await asked(engine, Keywords("openai/gpt-4o", **setting))

    assert engine.requests == ()


async def test_http_options_are_in_effect_or_said(engine: ScriptedEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    options = types.HttpOptions(
        timeout=5, headers={"x-mine": "1"}, extra_body={"top_k": 6, "of_google": 1}, client_args={"a": 1}
    )
    body = await asked(engine, Gemini(model="gemini-2.5-flash"), times=2, http_options=options)

    assert body == {"top_k": 6}
    assert engine.requests[0].headers["x-mine"] == "1"
    assert [told(caplog, name) for name in ("timeout", "of_google", "client_args")] == [1, 1, 1]


async def test_of_a_plain_author_nothing_is_said(engine: ScriptedEngine, caplog: pytest.LogCaptureFixture) -> None:
    await asked(engine, Gemini(model="gemini-2.5-flash"), temperature=0.2, tools=[TOOL])

    assert [record.getMessage() for record in caplog.records if record.name == "woodshed.capture"] == []
