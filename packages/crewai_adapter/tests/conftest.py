"""Keep CrewAI from the network and the home directory, and leave no hook behind."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

# Before CrewAI is imported: it reads these once.
os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_DISABLE_TRACKING="true",
    CREWAI_TRACING_ENABLED="false",
    OTEL_SDK_DISABLED="true",
    CREWAI_STORAGE_DIR=tempfile.mkdtemp(prefix="woodshed-crewai-"),
)
os.environ.pop("OPENAI_API_KEY", None)
sys.path.insert(0, str(Path(__file__).parent))

import pytest

with warnings.catch_warnings():
    # Its lazy modules make Python warn (ImportWarning), and its dependencies of each other's deprecations.
    warnings.simplefilter("ignore")
    import crewai
    import instructor

from woodshed.testing import ScriptedEngine
from woodshed_crewai import CrewAIInstrumentor

assert crewai and instructor


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    """An engine that answers by the rules of `author_crews.clerk`."""
    from author_crews import clerk

    with ScriptedEngine(clerk) as running:
        yield running


@pytest.fixture(autouse=True)
def _hooks_end_with_the_test() -> Iterator[None]:
    yield
    CrewAIInstrumentor().uninstrument()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let CrewAI use its own deprecated fields: building any agent reads `function_calling_llm`."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai"))
