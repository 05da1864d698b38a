"""Let the tests import the author's graphs by name, and leave no hook behind."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI

from woodshed.testing import ScriptedEngine
from woodshed_langgraph import LangGraphInstrumentor

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    """An engine that answers by the rules of `author_graphs.clerk`."""
    from author_graphs import clerk

    with ScriptedEngine(clerk) as running:
        yield running


@pytest.fixture
async def author(engine: ScriptedEngine) -> AsyncIterator[ChatOpenAI]:
    """The author's own model, which happens to live on the same server."""
    from author_graphs import chat

    # Its own connections, since langchain-openai keeps those of an address for good and addresses come back.
    async with openai.DefaultAsyncHttpxClient() as connections:
        yield chat(engine.base_url, http_async_client=connections)


@pytest.fixture(autouse=True)
def _hooks_end_with_the_test() -> Iterator[None]:
    yield
    LangGraphInstrumentor().uninstrument()


@pytest.fixture(autouse=True)
def _each_test_is_a_run_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is logged once a run is kept by the engine's address, and the system gives out addresses again.
    monkeypatch.setattr(importlib.import_module("woodshed.capture.policy_params"), "_said", set())


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Any:
    """Run a graph synchronously, and asynchronously."""
    from attempts import ASK

    if request.param == "sync":
        return lambda graph, given=ASK, *rest: graph.invoke(given, *rest)
    return lambda graph, given=ASK, *rest: asyncio.run(graph.ainvoke(given, *rest))
