"""A model class of the author's own keeps its code: it runs around the policy's answers; those in use are trained."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from author_agents import add, agent, author_model, quietly
from google.adk.integrations.openai import OpenAILlm
from google.adk.models.base_llm import BaseLlm
from google.adk.models.google_llm import Gemini
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.models.registry import LLMRegistry
from google.genai import types
from running import QUIET, SSE, ask, runner_of, said

import woodshed
from woodshed.capture import Rollout
from woodshed.errors import ConfigError, RequestRefused
from woodshed.testing import ScriptedEngine, call_tool, fail, in_order, say, scripted_rollout
from woodshed_adk import AdkInstrumentor, instrument

pytestmark = QUIET

GEMINI = "gemini-2.5-flash"


def text(words: str) -> LlmResponse:
    return LlmResponse(content=types.Content(role="model", parts=[types.Part(text=words)]))


class Careful:
    """A mixin that tells every model how to behave."""

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        llm_request.append_instructions(["House rule: be kind."])
        async for response in super().generate_content_async(llm_request, stream):  # type: ignore[misc]
            yield response


class Loud(Gemini):
    """Adds words to the last content, and shouts."""

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        llm_request.contents[-1].parts.append(types.Part(text="(house style)"))
        async for response in super().generate_content_async(llm_request, stream):
            for part in response.content.parts if response.content else ():
                part.text = part.text and part.text.upper()
            yield response


class CarefulAndLoud(Careful, Loud):
    """Two levels and a mixin."""


class CarefulOpenAI(Careful, OpenAILlm):
    """The same mixin on another of ADK's models."""


class Again(Gemini):
    """Asks again where it is told so, and counts."""

    asked: int = 0

    async def _once(self, request: LlmRequest) -> LlmResponse:
        self.asked += 1
        return [response async for response in Gemini.generate_content_async(self, request)][-1]

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        first = await self._once(llm_request)
        if first.content and first.content.parts[0].text == "bad":
            llm_request.contents.append(types.Content(role="user", parts=[types.Part(text="Once more.")]))
            yield await self._once(llm_request)
        else:
            yield first


class BestOf(Again):
    """Takes the longest of three, wraps it up anew."""

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        requests = [llm_request.model_copy(deep=True) for _ in range(3)]
        made = await asyncio.gather(*(self._once(request) for request in requests))
        yield text(max((response.content.parts[0].text for response in made), key=len) + "!")


class Failing(Again):
    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        await self._once(llm_request)
        raise ValueError("no good answer")
        yield


class Guarded(Again):
    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        await self._once(llm_request)
        yield text("Sorry, we do not talk about this.")


class Judged(Again):
    """Asks the author's own model, not to be trained, while it streams what the policy says."""

    judge: Any = None

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        copied = llm_request.model_copy(deep=True)
        with woodshed.untracked():
            async for _ in self.judge.generate_content_async(copied):
                pass
        async for response in Gemini.generate_content_async(self, llm_request, stream):
            yield response


class Shell(BaseLlm):
    """Knows no provider: asks another model."""

    inner: Any

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        llm_request.append_instructions(["From the shell."])
        async for response in self.inner.generate_content_async(llm_request, stream):
            yield response


class Direct(BaseLlm):
    """Talks to a provider by itself."""

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        raise AssertionError("the provider was asked")
        yield


class Quiet(Loud):
    """Overrides nothing that is left out: pydantic gives it a `model_post_init` for its private attribute."""

    _seen: int = 0

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)


class Preparing(Gemini):
    async def _preprocess_request(self, llm_request: LlmRequest) -> None:
        llm_request.append_instructions(["never"])


async def practised(engine: ScriptedEngine, model: Any, run_config: Any = None, **options: Any) -> tuple[Any, Rollout]:
    """Return the events of one turn of an agent with the model, and the rollout."""
    instrument()
    with scripted_rollout(engine) as rollout:
        return await ask(runner_of(agent(model, "clerk", **options)), "hi", run_config=run_config), rollout


def notes(engine: ScriptedEngine, rollout: Rollout) -> list[tuple[str | None, str | None, bool]]:
    """Return (agent, answer, superseded) of each call."""
    return [
        (call.note.agent, call.tokens.completions[0].message.content, call.superseded)
        for call in engine.trajectory(rollout).calls
        if call.note
    ]


@pytest.mark.parametrize("run_config", [None, SSE])
async def test_what_the_class_does_to_requests_and_answers_is_done(engine: ScriptedEngine, run_config: Any) -> None:
    events, rollout = await practised(engine, CarefulAndLoud(model=GEMINI), run_config)

    system, user = engine.requests[0].body["messages"]
    assert "House rule: be kind." in system["content"]
    assert user["content"] == "hi\n(house style)"
    assert said(events) == ["YOU SAID: HI\n(HOUSE STYLE)"]
    assert notes(engine, rollout) == [("clerk", "You said: hi\n(house style)", False)]


async def test_the_settings_and_the_ways_of_the_model_it_derives_from_are_kept(engine: ScriptedEngine) -> None:
    class Short(CarefulOpenAI):
        async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
            llm_request.contents.append(types.Content(role="model", parts=[types.Part(text="Well:")]))
            async for response in super().generate_content_async(llm_request, stream):
                yield response

    model = Short(model="gpt-4o-mini", client=author_model(engine.base_url).client, max_tokens=7)
    await practised(engine, model)

    (seen,) = engine.requests
    assert seen.body["max_tokens"] == 7
    assert [message["role"] for message in seen.body["messages"]] == ["system", "user", "assistant"]


async def test_of_two_answers_only_the_one_in_use_is_trained(engine: ScriptedEngine) -> None:
    engine.script = in_order(say("bad"), say("good"), say("good at once"))
    model = Again(model=GEMINI)
    events, rollout = await practised(engine, model)
    again, at_once = await practised(engine, model)

    assert (said(events), said(again), model.asked) == (["good"], ["good at once"], 3)
    assert notes(engine, rollout) == [("clerk", "bad", True), ("clerk", "good", False)]
    assert notes(engine, at_once) == [("clerk", "good at once", False)]


async def test_the_first_of_two_answers_may_be_the_one_in_use(engine: ScriptedEngine) -> None:
    engine.script = in_order(say("ab"), say("the longest one"), say("abc"))
    events, rollout = await practised(engine, BestOf(model=GEMINI))

    assert said(events) == ["the longest one!"]
    assert {said: superseded for _, said, superseded in notes(engine, rollout)} == {
        "ab": True,
        "the longest one": False,
        "abc": True,
    }


async def test_an_answer_that_the_class_throws_away_is_not_trained(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    _, failed = await practised(engine, Failing(model=GEMINI))
    _, guarded = await practised(engine, Guarded(model=GEMINI))

    assert [superseded for *_, superseded in notes(engine, failed)] == [True]
    assert [superseded for *_, superseded in notes(engine, guarded)] == [True]
    assert "'clerk' goes on with another answer than the policy gave" in caplog.text


@pytest.mark.parametrize("run_config", [None, SSE])
async def test_a_judge_inside_the_class_is_its_own(engine: ScriptedEngine, run_config: Any) -> None:
    model = Judged(model=GEMINI, judge=author_model(engine.base_url))
    _, rollout = await practised(engine, model, run_config)

    assert [seen.headers["authorization"] for seen in engine.requests] == ["Bearer author", f"Bearer {rollout.secret}"]
    assert [superseded for *_, superseded in notes(engine, rollout)] == [False]


async def test_a_class_around_other_models_runs_around_them(engine: ScriptedEngine) -> None:
    from google.adk.models import FallbackModel

    shells = [
        Shell(model="shell", inner=Gemini(model=GEMINI)),
        Shell(model="shell", inner=Loud(model=GEMINI)),
        quietly(FallbackModel, models=[Shell(model="a shell", inner=Loud(model=GEMINI)), GEMINI]),
    ]
    for shell in shells:
        _, rollout = await practised(engine, shell)
        assert [(who, superseded) for who, _, superseded in notes(engine, rollout)] == [("clerk", False)]

    systems = [seen.body["messages"][0]["content"] for seen in engine.requests]
    assert ["From the shell." in system for system in systems] == [True, True, True]
    users = [seen.body["messages"][1]["content"] for seen in engine.requests]
    assert users == ["hi", "hi\n(house style)", "hi\n(house style)"]


@pytest.fixture
def registered() -> Any:
    """A registry whose names of this test are gone after it."""
    from google.adk.models import registry

    before = dict(registry._llm_registry_dict)
    yield LLMRegistry.register
    registry._llm_registry_dict.clear()
    registry._llm_registry_dict.update(before)
    LLMRegistry.resolve.cache_clear()


class ByName(Loud):
    @classmethod
    def supported_models(cls) -> list[str]:
        return ["house-model"]


class Keyed(ByName):
    def __init__(self, **given: Any) -> None:
        import os

        super().__init__(**given)
        os.environ["A_KEY_THAT_IS_NOT_SET"]

    @classmethod
    def supported_models(cls) -> list[str]:
        return ["keyed-model"]


class KeyedOnly(Gemini):
    """Has no code of its own around a call."""

    def __init__(self, **given: Any) -> None:
        import os

        super().__init__(**given)
        os.environ["A_KEY_THAT_IS_NOT_SET"]

    @classmethod
    def supported_models(cls) -> list[str]:
        return ["keyed-only-model"]


async def test_a_class_that_the_author_registered_runs_too(engine: ScriptedEngine, registered: Any) -> None:
    registered(ByName)
    events, _ = await practised(engine, "house-model")

    assert said(events) == ["YOU SAID: HI\n(HOUSE STYLE)"]


async def test_a_registered_class_that_cannot_be_built_is_refused_only_where_its_code_is_missed(
    engine: ScriptedEngine, registered: Any
) -> None:
    registered(Keyed)
    registered(KeyedOnly)
    (*_, error), rollout = await practised(engine, "keyed-model")
    events, _ = await practised(engine, "keyed-only-model")

    assert isinstance(error, ConfigError)
    assert "class Keyed cannot be built here: KeyError: 'A_KEY_THAT_IS_NOT_SET'" in str(error)
    assert rollout.error is not None
    assert said(events) == ["You said: hi"]


async def test_a_class_whose_code_cannot_run_is_named_once(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "woodshed.adk"):
        for model in (Direct(model="direct"), Direct(model="direct"), Preparing(model=GEMINI), Quiet(model=GEMINI)):
            _, rollout = await practised(engine, model)
            assert [(who, superseded) for who, _, superseded in notes(engine, rollout)] == [("clerk", False)]

    direct, preparing = caplog.messages
    assert "Direct asks its provider itself" in direct
    assert "none of its code runs" in direct
    assert "super().generate_content_async" in direct
    assert "Preparing overrides _preprocess_request" in preparing


async def test_the_models_are_put_back_and_untouched_outside_a_rollout(engine: ScriptedEngine) -> None:
    before = OpenAILlm.__dict__["generate_content_async"]
    model = CarefulOpenAI(model="gpt-4o-mini", client=author_model(engine.base_url).client)
    await practised(engine, model)
    inside = OpenAILlm.__dict__["generate_content_async"]
    outside = await ask(runner_of(agent(model, "clerk")), "hi")
    AdkInstrumentor().uninstrument()

    assert said(outside) == ["You said: hi"]
    assert engine.requests[-1].headers["authorization"] == "Bearer author"
    assert inside is not before
    assert OpenAILlm.__dict__["generate_content_async"] is before


def another(words: str) -> Any:
    def after(callback_context: Any, llm_response: LlmResponse) -> LlmResponse | None:
        return None if llm_response.partial else text(words)

    return after


@pytest.mark.parametrize("run_config", [None, SSE])
async def test_an_answer_that_a_callback_replaces_is_not_trained_and_one_it_edits_is(
    engine: ScriptedEngine, run_config: Any
) -> None:
    engine.script = lambda request: say("The code is 1234 and the name is Bob.")
    rollouts = [
        (await practised(engine, GEMINI, run_config, after_model_callback=another(words)))[1]
        for words in ("Sorry, we can't help with that.", "The code is **** and the name is Bob.")
    ]

    assert [superseded for r in rollouts for *_, superseded in notes(engine, r)] == [True, False]


async def test_a_callback_also_replaces_what_the_class_made_of_an_answer(engine: ScriptedEngine) -> None:
    _, rollout = await practised(engine, Loud(model=GEMINI), after_model_callback=another("Sorry, no."))

    assert [superseded for *_, superseded in notes(engine, rollout)] == [True]


async def test_a_tool_call_that_is_kept_is_in_use(engine: ScriptedEngine) -> None:
    engine.script = in_order(call_tool("add", a=1, b=2), say("Three"))

    def after(callback_context: Any, llm_response: LlmResponse) -> LlmResponse | None:
        for part in llm_response.content.parts if llm_response.content else ():
            if part.function_call:
                call = types.FunctionCall(id=part.function_call.id, name="add", args={"a": 4, "b": 2})
                return LlmResponse(content=types.Content(role="model", parts=[types.Part(function_call=call)]))
        return None

    events, rollout = await practised(engine, GEMINI, tools=[add], after_model_callback=after)

    assert said(events) == ["Three"]
    assert [superseded for *_, superseded in notes(engine, rollout)] == [False, False]


class Lazy(Gemini):
    """Its client is built when it is first read, with a key that is not there."""

    @property
    def api_client(self) -> Any:
        raise KeyError("A_KEY_THAT_IS_NOT_SET")


class LazyOpenAI(OpenAILlm):
    @property
    def _openai_client(self) -> Any:
        raise KeyError("A_KEY_THAT_IS_NOT_SET")

    @property
    def retry_options(self) -> Any:
        raise KeyError("A_KEY_THAT_IS_NOT_SET")


class LazyDirect(BaseLlm):
    @property
    def client(self) -> Any:
        raise KeyError("A_KEY_THAT_IS_NOT_SET")

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        self.client.ask()
        yield


@pytest.mark.parametrize("kind", [Lazy, LazyOpenAI, LazyDirect])
async def test_no_client_of_the_authors_is_built_for_a_rollout(engine: ScriptedEngine, kind: Any) -> None:
    events, _ = await practised(engine, kind(model=GEMINI))

    assert said(events) == ["You said: hi"]


async def test_what_cannot_be_asked_is_recorded_and_fails_the_rollout_though_a_callback_swallows_it(
    engine: ScriptedEngine,
) -> None:
    def soothe(callback_context: Any, llm_request: Any, error: Exception) -> LlmResponse:
        return text("Never mind.")

    twice = types.GenerateContentConfig(candidate_count=2)
    events, rollout = await practised(engine, GEMINI, generate_content_config=twice, on_model_error_callback=soothe)

    assert said(events) == ["Never mind."]
    assert isinstance(rollout.error, ConfigError)
    assert [note.error.kind for note in rollout.recorder.notes() if note.error] == ["ConfigError"]
    assert len(engine.requests) == 0


@pytest.mark.parametrize("run_config", [None, SSE])
async def test_a_refusal_of_the_gateway_fails_the_rollout_though_a_callback_swallows_it(
    engine: ScriptedEngine, run_config: Any
) -> None:
    def soothe(callback_context: Any, llm_request: Any, error: Exception) -> LlmResponse:
        return text("Never mind.")

    engine.script = lambda request: fail(400, code="request_refused")
    events, rollout = await practised(engine, GEMINI, run_config, on_model_error_callback=soothe)

    assert said(events) == ["Never mind."]
    assert isinstance(rollout.error, RequestRefused)
