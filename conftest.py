"""What all tests share."""

from __future__ import annotations

import pytest

from etude.engine.provision import engine_python
from etude.errors import EngineMissing


@pytest.fixture(scope="session")
def needs_engine() -> None:
    """Skip where the engine environment is not installed, and say how to install it."""
    try:
        engine_python()
    except EngineMissing as missing:
        pytest.skip(str(missing))
