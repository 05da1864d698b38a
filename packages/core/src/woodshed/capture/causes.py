"""An exception with everything that it came from."""

from __future__ import annotations

from collections.abc import Iterator


def causes(error: BaseException | None, *, suppressed: bool) -> Iterator[BaseException]:
    """Yield an exception, what it was raised from, and the members of groups; each once.

    Args:
        error: the exception; None yields nothing.
        suppressed: whether to go on to the exception that was being handled where `from` hides it.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if suppressed or not current.__suppress_context__:
            waiting.append(current.__context__)
        waiting.append(current.__cause__)
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
