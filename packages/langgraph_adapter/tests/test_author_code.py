"""What an author wrote around a chat model's requests runs around ours, and every request it makes is recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from attempts import ASK, attempts, one_node
from author_graphs import chat
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import PrivateAttr, SecretStr

from woodshed.testing import ScriptedEngine, in_order, say, scripted_rollout
from woodshed_langgraph import instrument, wrap

NOWHERE = "http://127.0.0.1:9"
RULE = SystemMessage("Be brief.")


class Ruled:
    """Adds a rule to every request, and a mark to every whole answer."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return marked(super()._generate([RULE, *messages], stop=stop, run_manager=run_manager, **kwargs))  # type: ignore[misc]

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return marked(await super()._agenerate([RULE, *messages], stop=stop, run_manager=run_manager, **kwargs))  # type: ignore[misc]

    def _stream(self, messages: Any, stop: Any = None, **kwargs: Any) -> Iterator[Any]:
        yield from super()._stream([RULE, *messages], stop=stop, **kwargs)  # type: ignore[misc]

    async def _astream(self, messages: Any, stop: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        async for chunk in super()._astream([RULE, *messages], stop=stop, **kwargs):  # type: ignore[misc]
            yield chunk


def marked(result: ChatResult) -> ChatResult:
    for generation in result.generations:
        generation.message.content += "!"  # type: ignore[operator]
    return result


class House(BaseChatModel):
    """A model that its author wrote whole; it cannot stream."""

    @property
    def _llm_type(self) -> str:
        return "house"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        raise AssertionError("the author's own model was called")


class RuledOpenAI(Ruled, ChatOpenAI):
    """An author's ChatOpenAI."""


class RuledAzure(Ruled, AzureChatOpenAI):
    """An author's AzureChatOpenAI."""


class RuledBase(Ruled, BaseChatOpenAI):
    """An author's BaseChatOpenAI."""


class RuledClaude(Ruled, ChatAnthropic):
    """An author's ChatAnthropic."""


class RuledHouse(House):
    """A second class above the author's own, which overrides one method only, without `run_manager`."""

    def _generate(self, messages: Any, stop: Any = None, **kwargs: Any) -> ChatResult:  # type: ignore[override]
        return marked(super()._generate([RULE, *messages], stop=stop, **kwargs))


class Wrapper(BaseChatModel):
    """A chat model around another one."""

    inner: Any

    @property
    def _llm_type(self) -> str:
        return "wrapper"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return marked(self.inner._generate([RULE, *messages], stop=stop, **kwargs))


class PublicWrapper(Wrapper):
    """One that calls the public method."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        message = self.inner.invoke([RULE, *messages], stop=stop, **kwargs)
        return marked(ChatResult(generations=[ChatGeneration(message=AIMessage(message.text))]))


KEYS: Any = {"api_key": SecretStr("author"), "max_retries": 0}
AUTHORS: dict[str, Any] = {
    "openai": lambda: RuledOpenAI(model="m", base_url=NOWHERE, **KEYS),
    "base": lambda: RuledBase(model="m", base_url=NOWHERE, **KEYS),
    "azure": lambda: RuledAzure(azure_deployment="d", azure_endpoint=NOWHERE, api_version="2024-10-21", **KEYS),
    "anthropic": lambda: RuledClaude(model="claude-sonnet-4-5", base_url=NOWHERE, **KEYS),
    "house": RuledHouse,
    "wrapper of openai": lambda: Wrapper(inner=chat(NOWHERE)),
    "wrapper of anthropic": lambda: Wrapper(inner=ChatAnthropic(model="claude-sonnet-4-5", base_url=NOWHERE, **KEYS)),
    "wrapper of a ruled one": lambda: Wrapper(inner=Wrapper(inner=chat(NOWHERE))),
    "public wrapper": lambda: PublicWrapper(inner=chat(NOWHERE)),
    "wrapper of a bound one": lambda: PublicWrapper(inner=chat(NOWHERE).bind(temperature=0.5)),
}


@pytest.mark.parametrize("author", AUTHORS)
def test_author_code_runs_around_the_policys_answer(engine: ScriptedEngine, run: Any, author: str) -> None:
    engine.script = lambda request: say("yes")
    agent = wrap(create_agent(AUTHORS[author](), [], name="clerk"))
    with scripted_rollout(engine) as rollout:
        final = run(agent)

    times = 2 if author == "wrapper of a ruled one" else 1
    (call,) = engine.trajectory(rollout).calls
    assert final["messages"][-1].text == "yes" + "!" * times
    assert [m.content for m in call.tokens.messages] == ["Be brief."] * times + ["hi"]
    assert call.note is not None
    assert (call.note.attempt, call.note.superseded) == (1, False)
    assert call.note.agent == "clerk" or call.note.agent == "model"


@pytest.mark.parametrize("author", ["openai", "base", "azure", "anthropic"])
async def test_author_code_runs_around_a_stream(engine: ScriptedEngine, author: str) -> None:
    instrument()
    with scripted_rollout(engine) as rollout:
        model = AUTHORS[author]()
        assert "".join(chunk.text for chunk in model.stream("hi")) == "You said: hi"
        assert "".join([chunk.text async for chunk in model.astream("hi")]) == "You said: hi"

    for call in engine.trajectory(rollout).calls:
        assert [m.content for m in call.tokens.messages] == ["Be brief.", "hi"]


@pytest.mark.parametrize("where", ["here", "in a pool"])
@pytest.mark.parametrize(("used", "gone"), [(1, [True, False]), (0, [False, True])])
def test_an_override_that_asks_twice_is_two_calls(
    engine: ScriptedEngine, run: Any, where: str, used: int, gone: list[bool]
) -> None:
    class Twice(ChatOpenAI):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            def ask() -> ChatResult:
                return super(Twice, self)._generate(messages, stop=stop, run_manager=run_manager, **kwargs)

            if where == "here":
                return [ask(), ask()][used]
            with ThreadPoolExecutor(1) as pool:
                return [pool.submit(ask).result() for _ in range(2)][used]

        async def _agenerate(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> ChatResult:
            results = [await super(Twice, self)._agenerate(messages, stop=stop, **kwargs) for _ in range(2)]
            return results[used]

    engine.script = in_order(say("one"), say("two"))
    agent = wrap(create_agent(Twice(model="m", base_url=NOWHERE, **KEYS), [], name="clerk"))
    with scripted_rollout(engine) as rollout:
        final = run(agent)

    assert final["messages"][-1].text == ["one", "two"][used]
    assert [(text, superseded) for text, _, superseded in attempts(engine.trajectory(rollout))] == [
        ("one", gone[0]), ("two", gone[1]),
    ]  # fmt: skip


def test_an_override_that_plans_and_acts_uses_both_answers(engine: ScriptedEngine) -> None:
    class Plans(ChatOpenAI):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            plan = super()._generate([*messages, HumanMessage("Plan.")], stop=stop, **kwargs)
            return super()._generate([*messages, HumanMessage(f"Plan: {plan.generations[0].text}")], **kwargs)

    engine.script = in_order(say("first this"), say("done"))
    instrument()
    with scripted_rollout(engine) as rollout:
        Plans(model="m", base_url=NOWHERE, **KEYS).invoke("hi")

    assert attempts(engine.trajectory(rollout)) == [("first this", 1, False), ("done", 1, False)]


def test_an_override_of_a_stream_that_starts_again(engine: ScriptedEngine) -> None:
    class Restarts(ChatOpenAI):
        def _stream(self, messages: Any, stop: Any = None, **kwargs: Any) -> Iterator[Any]:
            list(super()._stream(messages, stop=stop, **kwargs))
            yield from super()._stream(messages, stop=stop, **kwargs)

    engine.script = in_order(say("one"), say("two"))
    instrument()
    with scripted_rollout(engine) as rollout:
        text = "".join(chunk.text for chunk in Restarts(model="m", base_url=NOWHERE, **KEYS).stream("hi"))

    assert text == "two"
    assert attempts(engine.trajectory(rollout)) == [("one", 1, True), ("two", 2, False)]


def test_an_override_of_a_public_method_runs_once(engine: ScriptedEngine, run: Any) -> None:
    class Asks(ChatOpenAI):
        def generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            return super().generate([[RULE, *messages[0]]], *args, **kwargs)

        async def agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            return await super().agenerate([[RULE, *messages[0]]], *args, **kwargs)

    agent = wrap(create_agent(Asks(model="m", base_url=NOWHERE, **KEYS), []))
    with scripted_rollout(engine) as rollout:
        run(agent)

    (call,) = engine.trajectory(rollout).calls
    assert [m.content for m in call.tokens.messages] == ["Be brief.", "hi"]


def test_an_override_that_sends_the_request_itself_is_recorded(engine: ScriptedEngine) -> None:
    class Sends(ChatOpenAI):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            payload = self._get_request_payload(messages, stop=stop, **kwargs)
            return self._create_chat_result(self.client.create(**payload))

    node = one_node(lambda s: {"messages": [Sends(model="m", base_url=NOWHERE, **KEYS).invoke(s["messages"])]})
    with scripted_rollout(engine) as rollout:
        wrap(node.compile()).invoke(ASK)

    (call,) = engine.trajectory(rollout).calls
    assert call.note is not None
    assert call.note.agent == "node"


def test_an_override_that_never_calls_on_is_named(engine: ScriptedEngine, caplog: pytest.LogCaptureFixture) -> None:
    class OwnHttp(ChatAnthropic):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            raise AssertionError("the author's own endpoint was called")

    instrument()
    with scripted_rollout(engine):
        for _ in range(2):
            OwnHttp(model="claude-sonnet-4-5", **KEYS).invoke("hi")  # type: ignore[call-arg]

    assert [r.message for r in caplog.records if "OwnHttp" in r.message] == [
        "OwnHttp._generate does not call super()._generate: it is taken for the provider's own code, and inside "
        "rollouts the policy answers in place of all of OwnHttp's request methods"
    ]


def test_an_override_that_answers_by_itself_is_named(engine: ScriptedEngine, caplog: pytest.LogCaptureFixture) -> None:
    class Guarded(ChatOpenAI):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            if messages:
                return ChatResult(generations=[ChatGeneration(message=AIMessage("I cannot say."))])
            return super()._generate(messages, stop=stop, **kwargs)

    instrument()
    with scripted_rollout(engine) as rollout:
        for _ in range(2):
            assert Guarded(model="m", base_url=NOWHERE, **KEYS).invoke("hi").text == "I cannot say."

    assert engine.trajectory(rollout).calls == ()
    assert len([r for r in caplog.records if r.message.startswith("Guarded answered without")]) == 1


def test_what_author_code_keeps_in_a_private_attribute_it_finds_again(engine: ScriptedEngine) -> None:
    class Counts(ChatOpenAI):
        _asked: int = PrivateAttr(0)

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            self._asked += 1
            return super()._generate(messages, stop=stop, **kwargs)

    model = Counts(model="m", base_url=NOWHERE, **KEYS)
    instrument()
    with scripted_rollout(engine):
        model.invoke("a")
        model.invoke("b")

    assert model._asked == 2


def test_strict_methods_without_further_arguments_take_no_more_than_langchain_gives(engine: ScriptedEngine) -> None:
    class Strict(ChatOpenAI):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None) -> ChatResult:  # type: ignore[override]
            return super()._generate(messages, stop, run_manager)

    instrument()
    with scripted_rollout(engine) as rollout:
        Strict(model="m", base_url=NOWHERE, **KEYS).invoke("hi")

    assert json.dumps([n.superseded for n in rollout.recorder.notes()]) == "[false]"


def test_a_router_uses_the_answer_of_the_model_that_chose(
    engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    class Router(BaseChatModel):
        chooses: Any
        answers: list[Any]

        @property
        def _llm_type(self) -> str:
            return "router"

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            chosen = int(self.chooses.invoke(messages).text)
            self.answers[chosen]._generate(messages, stop=stop, **kwargs)
            return self.answers[chosen]._generate(messages, stop=stop, **kwargs)  # type: ignore[no-any-return]

    router = Router(chooses=chat(NOWHERE) | StrOutputParser() | AIMessage, answers=[chat(NOWHERE), chat(NOWHERE)])
    again = Router(chooses=chat(NOWHERE), answers=[chat(NOWHERE), chat(NOWHERE)])
    for model in (router, again):
        engine.script = in_order(say("1"), say("one"), say("two"))
        with scripted_rollout(engine) as rollout:
            wrap(create_agent(model, [])).invoke(ASK)

        assert attempts(engine.trajectory(rollout)) == [("1", 1, False), ("one", 1, True), ("two", 2, False)]
    assert "Router" not in caplog.text


@pytest.mark.parametrize("author", [ChatAnthropic, House])
def test_an_override_above_another_provider_that_asks_twice(engine: ScriptedEngine, run: Any, author: Any) -> None:
    class Twice(author):  # type: ignore[misc]
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            super()._generate(messages, stop=stop, **kwargs)
            return super()._generate(messages, stop=stop, **kwargs)  # type: ignore[no-any-return]

        async def _agenerate(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> ChatResult:
            await super()._agenerate(messages, stop=stop, **kwargs)
            return await super()._agenerate(messages, stop=stop, **kwargs)  # type: ignore[no-any-return]

    engine.script = in_order(say("one"), say("two"))
    settings = {"model": "claude-sonnet-4-5", "base_url": NOWHERE, **KEYS} if author is ChatAnthropic else {}
    with scripted_rollout(engine) as rollout:
        run(wrap(create_agent(Twice(**settings), [])))

    assert attempts(engine.trajectory(rollout)) == [("one", 1, True), ("two", 2, False)]


def test_a_wrapper_that_retries_keeps_the_answer_it_returns(engine: ScriptedEngine) -> None:
    class Tries(Wrapper):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            self.inner._generate(messages, stop=stop, **kwargs)
            return self.inner._generate(messages, stop=stop, **kwargs)  # type: ignore[no-any-return]

    engine.script = in_order(say("one"), say("two"))
    agent = wrap(create_agent(Tries(inner=chat(NOWHERE)), []))
    with scripted_rollout(engine) as rollout:
        asyncio.run(agent.ainvoke(ASK))

    assert attempts(engine.trajectory(rollout)) == [("one", 1, True), ("two", 2, False)]
