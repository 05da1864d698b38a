"""Find the demo's world, which is a package of its own."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from woodshed.errors import ConfigError


def load_demo() -> Callable[..., Any]:
    """Return the demo that an installed package offers under the entry point group `woodshed.demos`.

    Raises:
        ConfigError: no package offers one.
    """
    found = {e.name: e for e in entry_points(group="woodshed.demos")}
    if "tiny-world" not in found:
        raise ConfigError(
            "the demo's world is not installed; `pip install 'woodshed-tiny-world'`, or `make demo` in a checkout"
        )
    loaded: Callable[..., Any] = found["tiny-world"].load()
    return loaded
