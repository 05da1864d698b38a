"""The user's own function that is called after each step."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from woodshed.errors import ConfigError

OnStep = Callable[[dict[str, Any]], Awaitable[None] | None]
"""Takes a step's history row, as it stands in `history.jsonl`; sync or async."""


def check_on_step(function: object) -> None:
    """Raise ConfigError where `function` cannot be called."""
    if function is not None and not callable(function):
        raise ConfigError(f"on_step is {function!r}; expected a function of a step's row, such as on_step=rows.append")


async def called(function: OnStep | None, row: dict[str, Any]) -> None:
    """Call the function with a copy of the row. A sync one runs in a thread: rollouts go on meanwhile."""
    if function is None:
        return
    if inspect.iscoroutinefunction(function):
        await function(dict(row))
    elif inspect.isawaitable(answer := await asyncio.to_thread(_call, function, dict(row))):
        await answer


def _call(function: OnStep, row: dict[str, Any]) -> Any:
    try:
        return function(row)
    except StopIteration as ended:  # a future cannot carry it, and whoever waits for one would wait for ever
        raise RuntimeError("on_step raised StopIteration") from ended
