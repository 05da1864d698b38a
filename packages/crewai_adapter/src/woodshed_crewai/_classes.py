"""Hooks on every model class, those that are defined later included.

Only CrewAI needs this: other providers' classes appear when they are first used, too late for a hook by name.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import wrapt
from crewai.llms.base_llm import BaseLLM

from woodshed.capture import Around


class ClassHooks:
    """Wraps methods of every model class, and puts them back exactly."""

    def __init__(self, hooks_of: Callable[[type], Mapping[str, Around]]) -> None:
        """Take a function that says what happens around which methods of a class; it may be asked more than once."""
        self._hooks_of = hooks_of
        self._lock = threading.Lock()
        self._patches: list[tuple[type, str, Any, Any]] = []
        """Class, method, what the class itself held (None where it inherits the method), and our wrapper."""
        self._on = False

    def apply(self) -> None:
        """Wrap every class that exists; a second call changes nothing."""
        if not self._on:
            self._on = True
            for model_class in _subclasses(BaseLLM):
                self.add(model_class)

    def add(self, model_class: type) -> None:
        """Wrap one class, if the hooks are applied."""
        if not self._on:
            return
        with self._lock:
            for name, around in self._hooks_of(model_class).items():
                if any(owner is model_class and name == known for owner, known, _, _ in self._patches):
                    continue
                held = inspect.getattr_static(model_class, name)
                wrapper = wrapt.FunctionWrapper(held, self._gated(around))
                self._patches.append((model_class, name, vars(model_class).get(name), wrapper))
                setattr(model_class, name, wrapper)

    def revert(self) -> None:
        """Put every method back; where somebody wrapped it after us, leave a pass-through."""
        with self._lock:
            self._on = False
            while self._patches:
                owner, name, held, wrapper = self._patches.pop()
                if owner.__dict__.get(name) is not wrapper:
                    continue
                if held is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, held)

    def _gated(self, around: Around) -> Around:
        def gated(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            return around(wrapped, instance, args, kwargs) if self._on else wrapped(*args, **kwargs)

        return gated


def _subclasses(parent: type[Any]) -> Iterator[type[Any]]:
    for child in parent.__subclasses__():
        yield child
        yield from _subclasses(child)
