"""Run a coroutine to its end from plain code: also where an event loop is running already, such as in a notebook."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")
_LOOK_S = 0.2


def run_to_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Return what `work` returns, or raise what it raises.

    Inside a running event loop it runs in a thread with an event loop of its own, and with the caller's context
    variables; the caller's loop stands still meanwhile. Ctrl-C cancels the work and waits until it has cleaned up; a
    second one doesn't wait.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _InThread(work).result()


@contextmanager
def _ctrl_c_raises() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt; `asyncio.run` would only tell its own loop, which stands still."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _InThread(Generic[_T]):
    """A coroutine in a thread of its own."""

    def __init__(self, work: Coroutine[Any, Any, _T]) -> None:
        """Start it."""
        self._work = work
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[_T] | None = None
        self._is_running = threading.Event()
        self._has_ended = threading.Event()
        self._returned: list[_T] = []
        self._raised: BaseException | None = None
        # A daemon, so that an interpreter that is told to end twice does.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="woodshed", daemon=True
        )  # fmt: skip
        self._thread.start()

    def result(self) -> _T:
        """Wait for it."""
        with _ctrl_c_raises():
            try:
                self._join()
            except KeyboardInterrupt:
                self._cancel()
                self._join()
                raise
        if self._raised is not None:
            raise self._raised
        return self._returned[0]

    def _join(self) -> None:
        # A Ctrl-C that another thread is woken by is seen between two waits only. Not `Thread.join`: one that Ctrl-C
        # interrupts takes the thread for ended (https://github.com/python/cpython/issues/90882, until Python 3.13).
        while not self._has_ended.wait(_LOOK_S):
            pass

    def _run(self) -> None:
        try:
            self._returned.append(asyncio.run(self._named()))
        except BaseException as error:
            self._raised = error
        finally:
            self._is_running.set()
            self._has_ended.set()

    async def _named(self) -> _T:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._is_running.set()
        return await self._work

    def _cancel(self) -> None:
        self._is_running.wait()
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._task.cancel)
