"""What all tests share."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from woodshed.engine.client.provision import engine_python
from woodshed.errors import EngineMissing

if importlib.util.find_spec("hypothesis") is not None:  # adapters are tested in environments without it, too
    from hypothesis import HealthCheck, settings

    # A busy machine is no failure.
    settings.register_profile("woodshed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("woodshed")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Know the settings of a plugin that is not here: the tests marked `gpu` need none beside pytest itself."""
    for plugin, setting in (
        ("asyncio", "asyncio_mode"),
        ("asyncio", "asyncio_default_fixture_loop_scope"),
        ("timeout", "timeout"),
    ):
        if not pluginmanager.hasplugin(plugin):
            parser.addini(setting, f"a setting of pytest-{plugin}, which is not installed")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what cannot run without the engine environment; bring the files that take longest to the front.

    Two workers take a file each (`--dist loadfile`), and pytest orders overlapping arguments by itself.
    """
    conformance = sys.modules.get("woodshed.testing.conformance.rows")
    for item in items:
        owner = getattr(item, "cls", None)
        is_row = conformance is not None and owner is not None and issubclass(owner, conformance.CoreRows)
        if is_row or "needs_engine" in getattr(item, "fixturenames", ()):
            item.add_marker("engine")
    slow = {item.path for item in items if any(item.get_closest_marker(name) for name in ("engine", "slow"))}
    # Those that train a real model take minutes, the others with an engine or with Ray about one.
    items.sort(key=lambda item: (item.path not in slow, "real_engine" not in item.path.parts))


@pytest.fixture(scope="session")
def needs_engine() -> None:
    """Skip where the engine environment is not installed, and say how to install it."""
    try:
        engine_python()
    except EngineMissing as missing:
        pytest.skip(str(missing))
