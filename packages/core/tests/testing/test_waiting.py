"""Waiting ends when the condition holds, and says what it waited for where it never does."""

from __future__ import annotations

import pytest

from woodshed.testing.waiting import eventually


async def test_waiting_ends_as_soon_as_the_condition_holds() -> None:
    asked: list[int] = []

    def third_time() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    async def sixth_time() -> bool:
        return third_time() or len(asked) == 6

    await eventually(third_time, "asked three times", every_s=0.0)
    await eventually(sixth_time, "asked six times", every_s=0.0)

    assert len(asked) == 6


async def test_what_never_holds_is_said_in_words() -> None:
    with pytest.raises(AssertionError, match="still not so: pigs fly"):
        await eventually(lambda: False, "pigs fly", within_s=0.05, every_s=0.01)
