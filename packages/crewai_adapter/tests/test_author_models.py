"""A model class of the author's own runs in a rollout as it does outside: around the policy's answer."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from author_crews import Answer, agent, task
from crewai import LLM, Crew
from crewai.llms.base_llm import BaseLLM
from crewai.llms.providers.openai.completion import OpenAICompletion

from woodshed.errors import ConfigError
from woodshed.testing import ScriptedEngine, in_order, say, scripted_rollout
from woodshed_crewai import _authors, instrument

anthropic = pytest.importorskip(
    "crewai.llms.providers.anthropic.completion", reason="anthropic is not installed", exc_type=ImportError
)
AnthropicCompletion: Any = anthropic.AnthropicCompletion
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(autouse=True)
def _no_warning_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_authors, "_warned", set())


def _listed(messages: Any) -> list[Any]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)


class Brief:
    """A mixin that adds a system prompt and changes the answer."""

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return f"{super().call([SYSTEM, *_listed(messages)], *args, **kwargs)}!"  # type: ignore[misc]

    async def acall(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return f"{await super().acall([SYSTEM, *_listed(messages)], *args, **kwargs)}!"  # type: ignore[misc]


class BriefAnthropic(Brief, AnthropicCompletion):  # type: ignore[misc]
    pass


class BriefOpenAI(Brief, OpenAICompletion):
    pass


class BriefLiteLLM(Brief, LLM):
    pass


class OwnProvider(BaseLLM):
    """A model that its author wrote."""

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
        raise AssertionError("the author's provider was asked")

    async def acall(self, messages: Any, *args: Any, **kwargs: Any) -> str:
        raise AssertionError("the author's provider was asked")


class BriefOwn(Brief, OwnProvider):
    pass


class Polite(AnthropicCompletion):  # type: ignore[misc]
    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return f"Please: {super().call(messages, *args, **kwargs)}"

    async def acall(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return f"Please: {await super().acall(messages, *args, **kwargs)}"


class PoliteAndBrief(Brief, Polite):
    pass


KINDS = {
    BriefAnthropic: ("claude-sonnet-4-5", "three!"),
    BriefOpenAI: ("gpt-4o", "three!"),
    BriefOwn: ("mine", "three!"),
    PoliteAndBrief: ("claude-sonnet-4-5", "Please: three!"),
}


def made(kind: Any, **settings: Any) -> Any:
    model = KINDS[kind][0] if kind in KINDS else "claude-sonnet-4-5"
    return kind(model=model, api_key="author", **settings)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_authors_code_runs_around_the_policys_answer(engine: ScriptedEngine, kind: Any) -> None:
    engine.script = lambda request: say("three")
    instrument()
    model = made(kind)
    with scripted_rollout(engine) as rollout:
        assert model.call("What is 1 + 2?") == KINDS[kind][1]
        assert await model.acall("What is 1 + 2?") == KINDS[kind][1]

    assert [request.body["messages"][0] for request in engine.requests] == [SYSTEM, SYSTEM]
    assert [(n.attempt, n.superseded, n.author_model) for n in rollout.recorder.notes()] == [
        (1, False, KINDS[kind][0])
    ] * 2


def test_a_class_that_needs_litellm_runs_without_it(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say("three")
    instrument()
    with scripted_rollout(engine):
        assert BriefLiteLLM(model="groq/llama").call("What is 1 + 2?") == "three!"

    assert engine.requests[0].body["messages"][0] == SYSTEM


def test_a_crew_runs_the_code_of_its_agents_model(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say("three")
    instrument()
    by = agent(made(BriefAnthropic))
    with scripted_rollout(engine) as rollout:
        assert Crew(agents=[by], tasks=[task(by)]).kickoff(inputs={"question": "?"}).raw == "three!"

    assert [note.agent for note in rollout.recorder.notes()] == ["Clerk"]


class Wrapper(BaseLLM):
    """Adds to what another model is asked."""

    inner: Any = None

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return self._ask([SYSTEM, *_listed(messages)])

    def _ask(self, messages: Any) -> Any:
        return self.inner.call(messages)


def test_a_model_that_wraps_another_runs_around_it(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say("three")
    instrument()
    with scripted_rollout(engine) as rollout:
        assert Wrapper(model="mine", inner=made(Polite)).call("x") == "Please: three"

    assert [request.body["messages"][0] for request in engine.requests] == [SYSTEM]
    assert len(rollout.recorder.notes()) == 1


def test_a_model_that_talks_to_a_provider_itself_is_replaced_with_one_warning(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.script = lambda request: say("three")
    instrument()
    with scripted_rollout(engine), caplog.at_level(logging.WARNING, "woodshed.crewai"):
        for _ in range(2):
            assert OwnProvider(model="mine").call("x") == "three"

    (warning,) = caplog.messages
    assert "OwnProvider.call() talks to a provider itself" in warning
    assert "go on by super().call(...)" in warning


class FromMemory(Polite):
    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return "kept" if "again" in messages else super().call(messages, *args, **kwargs)


def test_an_answer_without_a_model_call_is_named(engine: ScriptedEngine, caplog: pytest.LogCaptureFixture) -> None:
    instrument()
    with scripted_rollout(engine) as rollout, caplog.at_level(logging.WARNING, "woodshed.crewai"):
        assert made(FromMemory).call("again") == "kept"

    assert rollout.recorder.notes() == ()
    assert "FromMemory.call() answered without a model call" in caplog.text


class Twice(Brief, AnthropicCompletion):  # type: ignore[misc]
    """Asks twice; which answer it uses is a setting."""

    use: str = "last"

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        first = AnthropicCompletion.call(self, messages, *args, **kwargs)
        told: list[Any] = [{"role": "assistant", "content": first}] if self.use == "conversation" else []
        last = AnthropicCompletion.call(
            self, [*_listed(messages), *told, {"role": "user", "content": "Again."}], *args, **kwargs
        )
        return {"first": first, "both": f"{first} and {last}", "neither": "something else"}.get(self.use, last)


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("last", [(1, True), (2, False)]),
        ("first", [(1, False), (1, True)]),
        ("both", [(1, False), (1, False)]),
        ("conversation", [(1, False), (1, False)]),
        ("neither", [(1, True), (2, False)]),
    ],
)
def test_of_two_answers_only_what_was_used_is_trained(
    engine: ScriptedEngine, use: str, expected: list[tuple[int, bool]]
) -> None:
    engine.script = in_order(say("one"), say("two"))
    instrument()
    with scripted_rollout(engine) as rollout:
        made(Twice, use=use).call("x")

    assert [(note.attempt, note.superseded) for note in rollout.recorder.notes()] == expected


class Hooked(AnthropicCompletion):  # type: ignore[misc]
    """Overrides what all providers have in common, and what is Anthropic's."""

    def _invoke_after_llm_call_hooks(self, messages: Any, answer: Any, *args: Any, **kwargs: Any) -> Any:
        return f"<{answer}>"

    def _prepare_completion_params(self, *args: Any, **kwargs: Any) -> Any:
        return super()._prepare_completion_params(*args, **kwargs)

    def get_context_window_size(self) -> int:
        return 1234


def test_other_overrides_run_where_every_provider_has_them_and_are_named_where_not(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.script = lambda request: say("three")
    instrument()
    model = made(Hooked)
    with scripted_rollout(engine), caplog.at_level(logging.WARNING, "woodshed.crewai"):
        assert [model.call("x"), model.call("y")] == ["<three>", "<three>"]
        assert model.get_context_window_size() == 1234

    (warning,) = caplog.messages
    assert "Hooked overrides _prepare_completion_params, which only its own provider's" in warning


class Prepared(OpenAICompletion):
    def _prepare_completion_params(self, messages: Any, tools: Any = None) -> Any:
        return super()._prepare_completion_params([SYSTEM, *messages], tools)

    def _handle_completion(self, *args: Any, **kwargs: Any) -> Any:
        return f"{super()._handle_completion(*args, **kwargs)}!"


def test_every_override_of_an_openai_model_runs(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say("three")
    instrument()
    with scripted_rollout(engine):
        assert Prepared(model="gpt-4o", api_key="author").call("x") == "three!"

    assert engine.requests[0].body["messages"][0] == SYSTEM


class Around(AnthropicCompletion):  # type: ignore[misc]
    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        if "itself" in messages:
            return self._get_sync_client().messages.create(model=self.model, messages=[], max_tokens=1)
        return super().call(messages, *args, **kwargs)


def test_a_request_past_the_policy_is_stopped(engine: ScriptedEngine) -> None:
    instrument()
    with scripted_rollout(engine), pytest.raises(ConfigError, match=r"Around asks its provider for 'claude.*past call"):
        made(Around).call("itself")


def test_hooks_on_the_authors_classes_come_and_go_exactly() -> None:
    from woodshed_crewai import CrewAIInstrumentor

    before = {kind: dict(vars(kind)) for kind in (BriefAnthropic, Polite, OwnProvider)}
    instrument()
    assert "call" in vars(BriefAnthropic)
    CrewAIInstrumentor().uninstrument()
    assert all(vars(kind).get(name) is before[kind].get(name) for kind in before for name in ("call", "acall"))


async def test_an_output_model_passes_through_the_authors_code(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say('{"number": 3}')
    instrument()
    with scripted_rollout(engine):
        answer = made(FromMemory).call("x", response_model=Answer)

    assert "3" in str(answer)
