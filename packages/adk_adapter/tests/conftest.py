"""Let the tests import the author's agents by name, and leave no hook behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from woodshed.testing import ScriptedEngine
from woodshed_adk import AdkInstrumentor

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    """An engine that answers by the rules of `author_agents.clerk`."""
    from author_agents import clerk

    with ScriptedEngine(clerk) as running:
        yield running


@pytest.fixture(autouse=True)
def _hooks_end_with_the_test() -> Iterator[None]:
    yield
    AdkInstrumentor().uninstrument()
