"""Generators: a block of the author's that is open in a suspended generator is not around the generator's reader.

Python shows a context variable that a generator sets to whoever reads the generator, until it goes on; for ever, where
the reader stops early. Two remedies: a generator that passes through a hook is driven with variables of its own
(`stepped`), and a block in any other generator knows where it stands, and so what is outside of it (`Block`).
"""

from __future__ import annotations

import contextlib
import contextvars
import dis
import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from types import FrameType
from typing import Any, Literal

from woodshed.capture.propagate import swapped

_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_RESUME = dis.opmap["RESUME"]


class Block:
    """Where a block of the author's code stands: in which generator, if in one."""

    def __init__(self) -> None:
        """Find the innermost generator that is running."""
        self._generator = _generator(sys._getframe(1))
        self._is_left: Literal["no", "here", "elsewhere"] = "no"

    def leave(self, *, elsewhere: bool) -> None:
        """End the block; `elsewhere` is a context that it wasn't entered in, and the first one still holds it."""
        self._is_left = "elsewhere" if elsewhere else "here"
        if not elsewhere:
            self._generator = None

    def is_around(self, *, owner: bool) -> bool | None:
        """Return whether code that runs now is inside the block; None where it may be inside or not.

        Args:
            owner: whether the code runs in the task or thread that entered the block. Another one was started by code
                in the block, or by whoever read the generator meanwhile.
        """
        if self._is_left == "elsewhere":
            return False if owner else None
        if self._generator is None or self._generator.f_back is not None:
            return True
        return False if owner else None if _is_at_yield(self._generator) else True


def _generator(frame: FrameType | None) -> FrameType | None:
    while frame is not None:
        # A generator that `contextlib` drives is a `with` block of the code around it.
        driver = frame.f_back
        is_with = driver is not None and driver.f_globals.get("__name__") == "contextlib"
        if frame.f_code.co_flags & _GENERATORS and not is_with:
            return frame
        frame = driver
    return None


def _is_at_yield(frame: FrameType) -> bool:
    """Return whether a suspended generator stands at a `yield`, and not at an `await` or a `yield from`.

    `RESUME 1` follows a `yield` (https://docs.python.org/3/library/dis.html#opcode-RESUME).
    """
    code, after = frame.f_code.co_code, frame.f_lasti + 2
    return code[after : after + 1] == bytes([_RESUME]) and code[after + 1] & 3 == 1


class holding(contextlib.AbstractContextManager[None]):  # a class: it is entered several times a model call
    """Set a variable for the length of a block, which another context may end than the one it began in."""

    __slots__ = ("_block", "_token", "_value", "_variable")

    def __init__(self, variable: contextvars.ContextVar[Any], value: Any, block: Block | None = None) -> None:
        """Name the variable and its value; `block` learns where it was left."""
        self._variable, self._value, self._block = variable, value, block

    def __enter__(self) -> None:
        """Set the variable."""
        self._token = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        """Put back what the variable held before."""
        elsewhere = False
        try:
            self._variable.reset(self._token)
        except ValueError:
            elsewhere = True
            if self._variable.get() is self._value:
                before = self._token.old_value
                self._variable.set(None if before is contextvars.Token.MISSING else before)
        if self._block is not None:
            self._block.leave(elsewhere=elsewhere)


async def stepped(items: AsyncGenerator[Any, Any]) -> AsyncIterator[Any]:
    """Yield an async generator's items; what it sets of the rollout's variables stays in it, however it ends."""
    mine = swapped()
    try:
        while True:
            theirs = swapped(mine)
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
            finally:
                mine = swapped(theirs)
            yield item
    finally:
        theirs = swapped(mine)
        try:
            await items.aclose()
        finally:
            swapped(theirs)


def stepped_sync(items: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The same for a generator, with what is sent and thrown into it and what it returns."""
    mine, step, given = swapped(), items.send, None
    try:
        while True:
            theirs = swapped(mine)
            try:
                item = step(given)
            except StopIteration as end:
                return end.value
            finally:
                mine = swapped(theirs)
            try:
                given, step = (yield item), items.send
            except GeneratorExit:
                raise
            except BaseException as error:
                given, step = error, items.throw
    finally:
        theirs = swapped(mine)
        try:
            items.close()
        finally:
            swapped(theirs)
