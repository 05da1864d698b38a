"""Wait for a condition instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def eventually(
    holds: Callable[[], object | Awaitable[object]], what: str, within_s: float = 60.0, every_s: float = 0.05
) -> None:
    """Wait until a condition holds, asked again and again; `what` says it in words where it never does."""
    clock = asyncio.get_running_loop()
    deadline = clock.time() + within_s
    while not await _answer(holds()):
        assert clock.time() < deadline, f"after {within_s} s still not so: {what}"
        await asyncio.sleep(every_s)


async def _answer(given: object | Awaitable[object]) -> object:
    return await given if inspect.isawaitable(given) else given
