"""The CrewAI adapter: not built yet, and it says so."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["trainable"]


def trainable(target: object = None) -> NoReturn:
    """Raise: there is no CrewAI adapter in this release.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        "the CrewAI adapter of étude is not built yet; until it is, any agent whose client speaks the "
        "OpenAI API can be trained with the base URL and key of `etude.current_rollout()`"
    )
