"""What all tests share."""

from __future__ import annotations

import importlib.util

import pytest

from woodshed.engine.client.provision import engine_python
from woodshed.errors import EngineMissing

if importlib.util.find_spec("hypothesis") is not None:  # adapters are tested in environments without it, too
    from hypothesis import HealthCheck, settings

    # A busy machine is no failure.
    settings.register_profile("woodshed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("woodshed")


@pytest.fixture(scope="session")
def needs_engine() -> None:
    """Skip where the engine environment is not installed, and say how to install it."""
    try:
        engine_python()
    except EngineMissing as missing:
        pytest.skip(str(missing))
