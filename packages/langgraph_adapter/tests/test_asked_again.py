"""Code around a model asks it again: the answer that came out is used, the others are superseded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attempts import ASK, attempts, one_node
from author_graphs import Answer, add, chat
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelFallbackMiddleware, ModelRetryMiddleware
from langchain.agents.middleware import ToolRetryMiddleware as RetryTool
from langchain.agents.middleware.types import ModelResponse
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from woodshed.testing import ScriptedEngine, call_tool, call_tools, in_order, say, scripted_rollout
from woodshed.types import ToolRequest
from woodshed_langgraph import wrap

RETRY = ModelRetryMiddleware(max_retries=2, initial_delay=0, jitter=False)


class Asks(AgentMiddleware):
    """Calls the handler once for each request that `again` makes of the first one, and returns what `choose` says."""

    def __init__(self, again: Any, choose: Any) -> None:
        super().__init__()
        self.again, self.choose = again, choose

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        responses = [handler(request)]
        for make in self.again:
            responses.append(handler(make(request, responses)))
        return self.choose(responses)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        responses = [await handler(request)]
        for make in self.again:
            responses.append(await handler(make(request, responses)))
        return self.choose(responses)


def same(request: Any, responses: Any) -> Any:
    return request


def corrected(request: Any, responses: Any) -> Any:
    told = [*request.messages, responses[-1].result[0], HumanMessage("try harder")]
    return request.override(messages=told)


def quoted(request: Any, responses: Any) -> Any:
    return request.override(messages=[*request.messages, HumanMessage(f"Improve: {responses[-1].result[0].text}")])


def last(responses: Any) -> Any:
    return responses[-1]


def superseded(engine: ScriptedEngine, rollout: Any) -> list[tuple[str | None, bool]]:
    return [(text, gone) for text, _, gone in attempts(engine.trajectory(rollout))]


CASES: dict[str, tuple[Any, Any, list[bool]]] = {
    "again, the last is used": ([same], last, [True, False]),
    "again, the first is used": ([same], lambda r: r[0], [False, True]),
    "twice again": ([same, same], last, [True, True, False]),
    "the message alone is returned": ([same], lambda r: r[1].result[0], [True, False]),
    "a copy is returned": ([same], lambda r: r[1].result[0].model_copy(deep=True), [True, False]),
    "a new message with the same text": ([same], lambda r: AIMessage(r[1].result[0].text), [True, False]),
    "the text is trimmed": ([same], lambda r: AIMessage(r[1].result[0].text[:-1]), [True, False]),
    "the answers are merged": ([same], lambda r: AIMessage(" and ".join(x.result[0].text for x in r)), [False, False]),
    "all are kept in the state": ([same], lambda r: ModelResponse(result=[x.result[0] for x in r]), [False, False]),
    "the first is corrected in the conversation": ([corrected], last, [False, False]),
    "the first is quoted in the second's prompt": ([quoted], last, [False, False]),
    "corrected, then thrown away with its correction": ([corrected, same], last, [True, True, False]),
    "nothing of it is known": ([same], lambda r: AIMessage("no"), [False, False]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_middleware_that_asks_again(engine: ScriptedEngine, run: Any, case: str) -> None:
    again, choose, gone = CASES[case]
    texts = ["Berlin is big", "Paris, maybe?", "Rome at last!"][: len(gone)]
    engine.script = in_order(*map(say, texts))
    graph = wrap(create_agent(chat(engine.base_url), [], middleware=[Asks(again, choose)]))
    with scripted_rollout(engine) as rollout:
        run(graph)

    assert superseded(engine, rollout) == list(zip(texts, gone, strict=True))


def test_an_answer_that_replaces_another_is_a_further_attempt(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(say("one"), say("two"))
    graph = wrap(create_agent(chat(engine.base_url), [], middleware=[Asks([same], last)]))
    with scripted_rollout(engine) as rollout:
        run(graph)

    assert attempts(engine.trajectory(rollout)) == [("one", 1, True), ("two", 2, False)]


@pytest.mark.parametrize("mode", ["messages", "updates"])
def test_a_streamed_agent_knows_the_answer_that_came_out(engine: ScriptedEngine, mode: str) -> None:
    engine.script = in_order(say("one"), say("two"))
    graph = wrap(create_agent(chat(engine.base_url), [], middleware=[Asks([same], last)]))

    async def read() -> None:
        async for _ in graph.astream(ASK, stream_mode=mode):
            pass

    with scripted_rollout(engine) as rollout:
        asyncio.run(read())

    assert superseded(engine, rollout) == [("one", True), ("two", False)]


def test_the_middlewares_of_a_stack_are_settled_together(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(*(say(text) for text in ("one", "two", "three", "four")))

    class Inner(Asks):
        """A second one."""

    stack = [Asks([same], last), Inner([same], lambda r: r[0])]
    graph = wrap(create_agent(chat(engine.base_url), [], middleware=stack))
    with scripted_rollout(engine) as rollout:
        final = run(graph)

    assert final["messages"][-1].text == "three"
    assert superseded(engine, rollout) == [("one", True), ("two", True), ("three", False), ("four", True)]


def test_a_middlewares_own_model_calls_are_used(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(say("which tools"), say("answer"))
    selector = chat(engine.base_url)

    class Selects(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            selector.invoke("which tools?")
            return handler(request)

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            await selector.ainvoke("which tools?")
            return await handler(request)

    graph = wrap(create_agent(chat(engine.base_url), [], middleware=[Selects()]))
    with scripted_rollout(engine) as rollout:
        run(graph)

    assert superseded(engine, rollout) == [("which tools", False), ("answer", False)]


@pytest.mark.parametrize("middleware", [RETRY, ModelFallbackMiddleware(chat("http://127.0.0.1:9"))])
def test_a_structured_answer_that_does_not_parse_is_superseded(
    engine: ScriptedEngine, run: Any, middleware: Any
) -> None:
    engine.script = in_order(say("no json"), say('{"text": "three"}'))
    agent = create_agent(chat(engine.base_url), [], middleware=[middleware], response_format=ProviderStrategy(Answer))
    with scripted_rollout(engine) as rollout:
        assert run(wrap(agent))["structured_response"].text == "three"

    assert superseded(engine, rollout) == [("no json", True), ('{"text": "three"}', False)]


def test_a_structured_answer_that_never_parses_is_superseded_by_the_last(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(say("no"), say("still no"), say("never"))
    agent = create_agent(chat(engine.base_url), [], middleware=[RETRY], response_format=ProviderStrategy(Answer))
    with scripted_rollout(engine) as rollout:
        assert "failed after 3 attempts" in run(wrap(agent))["messages"][-1].text

    assert [gone for _, gone in superseded(engine, rollout)] == [True, True, False]


def test_a_tool_strategys_refused_answer_is_superseded_if_it_is_asked_again(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(call_tool("Answer", wrong=1), call_tool("Answer", text="three"))
    strategy = ToolStrategy(Answer, handle_errors=False)
    agent = create_agent(chat(engine.base_url), [], middleware=[RETRY], response_format=strategy)
    with scripted_rollout(engine) as rollout:
        assert run(wrap(agent))["structured_response"].text == "three"

    assert [gone for _, gone in superseded(engine, rollout)] == [True, False]


def test_a_tool_strategys_refused_answer_that_the_model_is_told_of_is_used(engine: ScriptedEngine, run: Any) -> None:
    engine.script = in_order(call_tool("Answer", wrong=1), call_tool("Answer", text="three"))
    agent = create_agent(chat(engine.base_url), [], response_format=ToolStrategy(Answer))
    with scripted_rollout(engine) as rollout:
        assert run(wrap(agent))["structured_response"].text == "three"

    assert [gone for _, gone in superseded(engine, rollout)] == [False, False]


class RunsTwice(AgentMiddleware):
    """Runs each tool twice, and tells the model of the second run."""

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        handler(request)
        return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        await handler(request)
        return await handler(request)


@pytest.mark.parametrize("saver", [None, InMemorySaver])
@pytest.mark.parametrize("kind", ["model", "agent"])
@pytest.mark.parametrize("middleware", ["raises", "returns", "gives up"])
def test_a_tool_that_is_run_again_supersedes_what_it_asked(
    engine: ScriptedEngine, run: Any, saver: Any, kind: str, middleware: str
) -> None:
    helper, runs = create_agent(chat(engine.base_url), []), []

    @tool
    def ask_helper(question: str) -> str:
        """Ask the helper."""
        runs.append(1)
        if kind == "model":
            answer = chat(engine.base_url).invoke(question).text
        else:
            answer = helper.invoke({"messages": [("user", question)]})["messages"][-1].text
        if middleware == "gives up" or (middleware == "raises" and len(runs) == 1):
            raise ValueError("again")
        return answer

    engine.script = in_order(call_tool("ask_helper", question="q"), say("one"), say("two"), say("done"))
    stack = RunsTwice() if middleware == "returns" else RetryTool(max_retries=1, initial_delay=0, jitter=False)
    agent = create_agent(chat(engine.base_url), [ask_helper], middleware=[stack], checkpointer=saver and saver())
    with scripted_rollout(engine) as rollout:
        run(wrap(agent), ASK, {"configurable": {"thread_id": "1"}})

    assert attempts(engine.trajectory(rollout))[1:] == [("one", 1, True), ("two", 2, False), ("done", 1, False)]


def test_two_tools_of_one_turn_are_two_pieces_of_work(engine: ScriptedEngine, run: Any) -> None:
    @tool
    def ask(question: str) -> str:
        """Ask."""
        return chat(engine.base_url).invoke(question).text

    both = [ToolRequest(id=f"c{i}", name="ask", arguments='{"question": "q"}') for i in range(2)]
    engine.script = in_order(call_tools(*both), say("same"), say("same"), say("done"))
    with scripted_rollout(engine) as rollout:
        run(wrap(create_agent(chat(engine.base_url), [ask], middleware=[RETRY])))

    assert [gone for _, gone in superseded(engine, rollout)] == [False] * 4


def test_calls_that_a_node_makes_itself_are_all_used(engine: ScriptedEngine, run: Any) -> None:
    """A vote over three answers, of which one is returned."""
    engine.script = in_order(say("a"), say("b"), say("b"))
    model = chat(engine.base_url)

    def vote(state: Any) -> Any:
        answers = [model.invoke(state["messages"]) for _ in range(3)]
        return {"messages": [answers[1]]}

    with scripted_rollout(engine) as rollout:
        run(wrap(one_node(vote).compile()))

    assert superseded(engine, rollout) == [("a", False), ("b", False), ("b", False)]


def test_an_agent_whose_tool_loops_asks_once_in_each_turn(engine: ScriptedEngine, run: Any) -> None:
    graph = wrap(create_agent(chat(engine.base_url), [add], middleware=[RETRY]))
    with scripted_rollout(engine) as rollout:
        run(graph)

    assert [gone for _, gone in superseded(engine, rollout)] == [False, False]
