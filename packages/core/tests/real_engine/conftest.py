"""A real engine with real vLLM servers, started once for all tests of this folder."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

# Tests are imported by file, so their shared helpers need a place on the path.
sys.path.insert(0, str(Path(__file__).parent))

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from shop import RunningEngine, models

    from woodshed.engine import Engine

    @pytest_asyncio.fixture(scope="session", loop_scope="session")
    async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningEngine]:
        """Run one engine that serves the tiny policy and an untrained copy of it as `judge`."""
        home = tmp_path_factory.mktemp("engine")
        async with Engine.local(python=sys.executable).running(models(), home) as client:
            yield RunningEngine(client=client, home=home)
