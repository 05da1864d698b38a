"""Inside a rollout a graph gives, streams and reports exactly what it does unwrapped on the same replies.

The contract's row 21 holds this for a plain agent, and that nothing changes outside a rollout; here is what it has not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from author_graphs import ASYNC_ONLY, CALLS, GRAPHS, QUESTION, chat
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from woodshed.testing import ScriptedEngine, scripted_rollout
from woodshed_langgraph import wrap

Run = Callable[[Any], Awaitable[Any]]
_IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(-\d+)?|[0-9a-f]{32}")
_UNSTABLE = {"seq", "timestamp", "ts", "event_id"}


def plain(value: Any) -> Any:
    """Return a value without what differs between any two runs: ids and times."""
    if isinstance(value, BaseModel):
        return {"class": type(value).__name__, **plain(dict(value))}
    if isinstance(value, dict):
        return {plain(str(k)): plain(v) for k, v in value.items() if k not in _UNSTABLE}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    return _IDS.sub("ID", value if isinstance(value, str) else repr(value))


def in_any_order(values: Any) -> list[str]:
    """Return events as sorted text: parallel branches differ in order from run to run."""
    return sorted(json.dumps(plain(value), sort_keys=True, default=repr) for value in values)


async def invoke(graph: Any) -> Any:
    return plain(graph.invoke(QUESTION))


async def ainvoke(graph: Any) -> Any:
    return plain(await graph.ainvoke(QUESTION))


async def stream_updates(graph: Any) -> Any:
    return in_any_order(list(graph.stream(QUESTION, stream_mode="updates")))


async def stream_messages(graph: Any) -> Any:
    return in_any_order(list(graph.stream(QUESTION, stream_mode="messages", subgraphs=True)))


async def astream_both(graph: Any) -> Any:
    return in_any_order([event async for event in graph.astream(QUESTION, stream_mode=["messages", "updates"])])


async def astream_events(graph: Any) -> Any:
    return in_any_order([event async for event in graph.astream_events(QUESTION, version="v2")])


MODES: dict[str, Run] = {
    run.__name__: run for run in (invoke, ainvoke, stream_updates, stream_messages, astream_both, astream_events)
}
SYNC = {"invoke", "stream_updates", "stream_messages"}
IN_THE_CONTRACT = {("agent", "invoke"), ("agent", "ainvoke"), ("agent", "astream_events")}
PAIRS = [
    (graph, mode)
    for graph in GRAPHS
    for mode in MODES
    if not (graph in ASYNC_ONLY and mode in SYNC) and (graph, mode) not in IN_THE_CONTRACT
]


# langchain-openai dumps parsed structured output through a field that does not expect it, wrapped or not.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize(("name", "mode"), PAIRS)
async def test_a_graph_in_a_rollout_is_the_unwrapped_graph(
    engine: ScriptedEngine, author: ChatOpenAI, name: str, mode: str
) -> None:
    graph, run = GRAPHS[name](author), MODES[mode]
    unwrapped = await run(graph)
    own_calls = len(engine.requests)
    state_before = dict(vars(graph))
    assert wrap(graph) is graph

    with scripted_rollout(engine) as rollout:
        practised = await run(graph)

    assert practised == unwrapped
    assert vars(graph) == state_before
    assert {seen.rollout_id for seen in engine.requests[own_calls:]} == {rollout.rollout_id}
    calls = engine.trajectory(rollout).calls
    assert len(calls) == own_calls == CALLS[name]
    assert all(call.note is not None and call.tokens.completions and not call.note.superseded for call in calls)


async def test_the_request_is_the_authors_request(engine: ScriptedEngine) -> None:
    graph = GRAPHS["agent"](chat(engine.base_url, temperature=0.3, seed=7, stop=["!"], top_p=0.9))
    await invoke(graph)
    with scripted_rollout(engine):
        await invoke(wrap(graph))

    assert [seen.body for seen in engine.requests[2:]] == [seen.body for seen in engine.requests[:2]]


@pytest.mark.skipif(not hasattr(BaseChatModel, "_chat_model_stream_v3"), reason="langchain-core has no v3 streams yet")
@pytest.mark.filterwarnings("ignore:The v3 streaming protocol:langchain_core._api.LangChainBetaWarning")
async def test_v3_streams_are_the_unwrapped_graphs(engine: ScriptedEngine, author: ChatOpenAI) -> None:
    graph = GRAPHS["by_hand"](author)

    async def both() -> list[list[str]]:
        sync = in_any_order(list(graph.stream_events(QUESTION, version="v3")))
        stream = await graph.astream_events(QUESTION, version="v3")
        return [sync, in_any_order([event async for event in stream])]

    unwrapped, own_calls = await both(), len(engine.requests)
    wrap(graph)
    with scripted_rollout(engine) as rollout:
        practised = await both()

    assert practised == unwrapped
    assert own_calls == len(engine.trajectory(rollout).calls) == 4
