"""What core's tests share: their builders by name, and a judge on loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests are imported by file, so their shared helpers need a place on the path.
sys.path.insert(0, str(Path(__file__).parent))

from loopback_judge import LoopbackJudge


@pytest.fixture
def server() -> Iterator[LoopbackJudge]:
    with LoopbackJudge() as running:
        yield running


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a key; no test may see it, let alone send it."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
