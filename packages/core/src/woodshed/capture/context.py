"""Whose rollout is this? One ContextVar; never object identity, a global or an environment variable.

A context outlives what it was made for: a thread, a task or a server that was started in one rollout goes on in the
next one. So a binding knows who made it, and ends with its block: a model call under an ended binding is refused, and
work that is handed to such a worker through a queue brings the binding of whoever handed it over (`handoffs`).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from woodshed.capture.generators import Block, holding
from woodshed.capture.hooks import HookSet
from woodshed.capture.propagate import THREAD_HOOKS, propagate
from woodshed.capture.rollout import Rollout
from woodshed.errors import LeakError


@dataclass(frozen=True, eq=False, slots=True)
class Binding:
    """What code belongs to while a block lasts."""

    rollout: Rollout | None
    """None for calls that are not to be trained."""
    owner: weakref.ref[Any] | None
    """The task or thread that entered the block; None where it is not known whose work this is."""
    unknown: str = ""
    """Why it is not known whose work this is; the work is then refused a model."""
    candidates: tuple[Rollout, ...] = ()
    """Whose work it may be, where that is not known."""
    block: Block | None = None
    """Where the block stands that made the binding; None for a binding that holds wherever it is found."""
    outer: Binding | None = None
    """What code outside that block belongs to."""


_binding: contextvars.ContextVar[Binding | None] = propagate(contextvars.ContextVar("woodshed_binding", default=None))
_lock = threading.Lock()
_active: Counter[int] = Counter()
"""How many blocks are open, by `id` of their rollout."""
_late: Counter[str] = Counter()
"""Model calls that were refused because nobody knows, or nobody may know, whose they are; by message."""
_hooks: list[HookSet] = [THREAD_HOOKS]


def while_bound(hooks: HookSet) -> HookSet:
    """Apply `hooks` while at least one rollout is bound, and revert them exactly after the last; returns them."""
    _hooks.append(hooks)
    return hooks


def current_rollout() -> Rollout | None:
    """Return the rollout this code runs in, or None outside any and inside `untracked()`.

    Raises:
        LeakError: the rollout has ended, or it is not known whose work this is.
    """
    binding = current_binding()
    if binding is None:
        return None
    refuse_ended(binding, "woodshed.current_rollout()")
    return binding.rollout


def live_rollout() -> Rollout | None:
    """Return the rollout that records what happens here; None where nothing is to be recorded, or not any more."""
    binding = current_binding()
    rollout = binding.rollout if binding is not None else None
    return rollout if rollout is not None and _active[id(rollout)] else None


def require_rollout(what: str) -> Rollout | None:
    """Return the rollout a model call belongs to, or None where it may go its own way.

    Raises:
        LeakError: rollouts are active in this process and the call is in none of them, or in one that has ended, or
            it is not known in which. It would reach the author's own model in the middle of training, or be recorded
            as another rollout's, so it is stopped; `what` names it.
    """
    binding = current_binding()
    if binding is not None:
        refuse_ended(binding, what)
        return binding.rollout
    if count := len(_active):
        raise _leak(
            f"{what} has no rollout although {count} rollouts are active: its thread or task was started without "
            "the rollout's context. Start it with `contextvars.copy_context().run(...)`, or put calls that are not "
            "to be trained (judges, evals) inside `with woodshed.untracked():`"
        )
    return None


def refuse_ended(binding: Binding, what: str) -> None:
    """Raise LeakError for a model call whose rollout has ended, or of which nobody knows whose it is."""
    if binding.unknown:
        error = _leak(f"{what} is refused: {binding.unknown}")
        for candidate in binding.candidates:
            candidate.fail(error)
        raise error
    rollout = binding.rollout
    if rollout is not None and not _active[id(rollout)]:
        raise _leak(
            f"{what} comes from a thread or task that was started in {rollout!r}, which has ended: a worker that "
            "outlives its rollout cannot know whose work it does. Start it before the rollouts and hand it work "
            "through a queue or an executor, or start one in each rollout and end it there"
        )


def _leak(message: str) -> LeakError:
    with _lock:
        _late[message] += 1
    return LeakError(message)


def take_late_calls() -> dict[str, int]:
    """Return the model calls that were refused since this was asked last: message → how many."""
    with _lock:
        late = dict(_late)
        _late.clear()
    return late


def note_late_calls(late: Mapping[str, int]) -> None:
    """Count model calls that were refused in another process that runs rollouts of this one."""
    with _lock:
        _late.update(late)


@contextmanager
def bind(rollout: Rollout) -> Iterator[Rollout]:
    """Make `rollout` the current one for this block and for the tasks and threads it starts.

    When the last of its blocks ends, so does the rollout: what was started in it and goes on is refused a model.
    """
    _count(rollout, +1)
    try:
        with holding(_binding, Binding(rollout, runner())):
            yield rollout
    finally:
        _count(rollout, -1)


@contextmanager
def untracked() -> Iterator[None]:
    """Let model calls of this block go to the author's own model, neither recorded nor trained.

    In a generator the block may hold a `yield`: whoever reads the generator is outside the block, also where it is
    left before its end.
    """
    block = Block()
    with holding(_binding, Binding(None, runner(), block=block, outer=current_binding()), block):
        yield


@contextmanager
def bound_to(binding: Binding | None) -> Iterator[None]:
    """Run a block under a binding that is known already, or under none."""
    with holding(_binding, binding):
        yield


def current_binding() -> Binding | None:
    """Return what this code belongs to."""
    binding = _binding.get()
    while binding is not None and binding.block is not None:
        is_around = binding.block.is_around(owner=is_here(binding.owner))
        if is_around:
            break
        if is_around is None:
            return _astray(binding)
        binding = binding.outer
    return binding


def _astray(binding: Binding) -> Binding:
    """Return the binding of a task or thread that may have been started in a generator's block or outside of it."""
    around = binding.outer
    return Binding(
        None, None, candidates=(around.rollout,) if around is not None and around.rollout is not None else (),
        unknown="it comes from a task or thread that was started while a generator stood at a `yield` inside "
        "`with woodshed.untracked():`, so that nobody knows whether it is to be trained. End the block before the "
        "`yield`, and begin it anew behind it",
    )  # fmt: skip


def adopt(binding: Binding) -> bool:
    """Let a worker go on under the binding of whoever handed it work; returns whether the code here is a worker.

    A worker is code that inherited its binding: code that entered its own block keeps it, and so does code that never
    was in a rollout, such as a main program that reads what an agent streams.
    """
    mine = current_binding()
    if mine is None or is_here(mine.owner):
        return False
    if mine is not binding:
        _binding.set(binding)
    return True


def runner() -> weakref.ref[Any]:
    """Return a reference to the task that runs here, else to the thread."""
    return weakref.ref(_here())


def is_here(owner: weakref.ref[Any] | None) -> bool:
    """Return whether a block was entered by the task or thread that runs here, and not inherited by it."""
    return owner is not None and owner() is _here()


def _here() -> Any:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return task or threading.current_thread()


def _count(rollout: Rollout, change: int) -> None:
    """Count open blocks; the hooks are in place while there is one."""
    with _lock:
        _active[id(rollout)] += change
        if not _active[id(rollout)]:
            del _active[id(rollout)]
        for hooks in _hooks:
            if _active:
                hooks.apply()
            else:
                hooks.revert()
