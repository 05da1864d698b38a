"""What all tests share."""

from __future__ import annotations

import importlib.util

import pytest

from etude.engine.provision import engine_python
from etude.errors import EngineMissing

if importlib.util.find_spec("hypothesis") is not None:  # adapters are tested in environments without it, too
    from hypothesis import HealthCheck, settings

    # A busy machine is no failure.
    settings.register_profile("etude", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("etude")


@pytest.fixture(scope="session")
def needs_engine() -> None:
    """Skip where the engine environment is not installed, and say how to install it."""
    try:
        engine_python()
    except EngineMissing as missing:
        pytest.skip(str(missing))
