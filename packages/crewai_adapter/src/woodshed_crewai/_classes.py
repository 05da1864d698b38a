"""Hooks on every model class, those that are defined later included.

Only CrewAI needs this: other providers' classes appear when they are first used, too late for a hook by name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import wrapt
from crewai.llms.base_llm import BaseLLM

from woodshed.capture import Around


class ClassHooks:
    """Wraps methods where a class itself defines them, and puts them back exactly."""

    def __init__(self, is_meant: Callable[[type], bool], methods: Mapping[str, Around]) -> None:
        """Take the test for the classes to hook, and a wrapper for each method name."""
        self._is_meant = is_meant
        self._methods = dict(methods)
        self._lock = threading.Lock()
        self._patches: list[tuple[type, Any, Any, Any]] = []
        self._on = False

    def apply(self) -> None:
        """Wrap every class that exists; a second call changes nothing."""
        if not self._on:
            self._on = True
            for model_class in _subclasses(BaseLLM):
                self.add(model_class)

    def add(self, model_class: type) -> None:
        """Wrap one class, if it is one to hook and the hooks are applied."""
        if not self._on or not self._is_meant(model_class):
            return
        with self._lock:
            for name, around in self._methods.items():
                held = model_class.__dict__.get(name)
                if held is None or any(owner is model_class and name == known for owner, known, _, _ in self._patches):
                    continue
                wrapper = wrapt.FunctionWrapper(held, self._gated(around))
                setattr(model_class, name, wrapper)
                self._patches.append((model_class, name, held, wrapper))

    def revert(self) -> None:
        """Put every method back; where somebody wrapped it after us, leave a pass-through."""
        with self._lock:
            self._on = False
            while self._patches:
                owner, name, held, wrapper = self._patches.pop()
                if owner.__dict__.get(name) is wrapper:
                    setattr(owner, name, held)

    def _gated(self, around: Around) -> Around:
        def gated(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            return around(wrapped, instance, args, kwargs) if self._on else wrapped(*args, **kwargs)

        return gated


def _subclasses(parent: type[Any]) -> Iterator[type[Any]]:
    for child in parent.__subclasses__():
        yield child
        yield from _subclasses(child)
