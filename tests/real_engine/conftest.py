"""What the tests on a real engine share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from anyio.from_thread import start_blocking_portal

import woodshed
from woodshed.engine import EngineClient
from woodshed_tiny_world import judge_model, policy_path


@pytest.fixture(scope="session")
def one_engine(needs_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL and key of one engine for all files, since its start takes as long as two tests.

    It has an event loop of its own, because those of the tests end with their files.
    """
    served = woodshed.Policy(str(policy_path()), max_model_len=512).served()
    local = woodshed.Engine.local(models={"judge": judge_model()})
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(local.running([served], tmp_path_factory.mktemp("engine"))) as client,
    ):
        yield client.url, client.api_key or ""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(one_engine: tuple[str, str]) -> AsyncIterator[EngineClient]:
    """A client of the one engine, which serves the tiny world's policy and judge."""
    async with EngineClient(*one_engine) as client:
        yield client
