"""Errors of woodshed's own that an agent may swallow: a tool node makes text of them, a fallback goes on without them.

The policy would then learn that a tool is broken for ever. So wherever such an error passes, the rollout it passes in
is failed by it, whatever the agent does next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from woodshed.capture.rollout import Rollout
from woodshed.errors import WoodshedError


def own_error(error: BaseException | None) -> WoodshedError | None:
    """Return woodshed's own error in an exception, its causes or its group, if there is one."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, WoodshedError):
            return current
        waiting += [current.__context__, current.__cause__]
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
    return None


@contextmanager
def watched(rollout: Rollout) -> Iterator[None]:
    """Fail the rollout by an error of woodshed's own that leaves the block, and let it pass."""
    try:
        yield
    except BaseException as error:
        note_own_error(rollout, error)
        raise


def note_own_error(rollout: Rollout, error: BaseException | None) -> None:
    """Fail the rollout by woodshed's own error in `error`, if there is one."""
    if (own := own_error(error)) is not None:
        rollout.fail(own)
