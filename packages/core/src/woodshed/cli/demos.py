"""Load the demo, which is a package of its own."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from woodshed.errors import ConfigError


def load_demo() -> Callable[..., Any]:
    """Return the demo of an installed package, by its entry point in the group `woodshed.demos`.

    Raises:
        ConfigError: no such package is installed.
    """
    demos = {e.name: e for e in entry_points(group="woodshed.demos")}
    if "tiny-world" not in demos:
        raise ConfigError(
            "the demo is not installed; `pip install 'woodshed-tiny-world'`, or `make demo` in a checkout"
        )
    demo: Callable[..., Any] = demos["tiny-world"].load()
    return demo
