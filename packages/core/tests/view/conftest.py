"""A recorded run for every test of the viewer, made once."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from recorded_run import recorded
from view_client import Client


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asyncio.run(recorded(tmp_path_factory.mktemp("runs") / "recorded"))


@pytest.fixture
def client(folder: Path) -> Client:
    return Client(folder)
