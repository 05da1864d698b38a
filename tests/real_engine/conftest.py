"""What the tests on a real engine share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import woodshed
from woodshed.engine import EngineClient
from woodshed_tiny_world import judge_model, policy_path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(needs_engine: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineClient]:
    """An engine that serves the tiny world's policy, one for each file."""
    served = woodshed.Policy(str(policy_path()), max_model_len=512).served()
    async with woodshed.Engine.local().running([served], tmp_path_factory.mktemp("engine")) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judged_engine(needs_engine: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineClient]:
    """An engine that serves the tiny world's judge as well, one for each file: its start takes as long as a test."""
    served = woodshed.Policy(str(policy_path()), max_model_len=512).served()
    local = woodshed.Engine.local(models={"judge": judge_model()})
    async with local.running([served], tmp_path_factory.mktemp("engine")) as client:
        yield client
