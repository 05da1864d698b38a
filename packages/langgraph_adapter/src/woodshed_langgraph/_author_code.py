"""What a chat model's author wrote above the methods that send requests, and which models it holds."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any

from langchain_core.language_models import BaseChatModel, SimpleChatModel
from langchain_core.runnables import Runnable, RunnableBinding
from langchain_core.tools import BaseTool

from woodshed_langgraph._requests import BINDINGS, METHODS

_log = logging.getLogger("woodshed.langgraph")


def provider_of(author: type[BaseChatModel]) -> type[BaseChatModel]:
    """Return the class of a model's MRO that talks to the provider; the policy stands in for it.

    It is the one nearest to `BaseChatModel` that has request methods, or a further one of a library. What subclasses
    do around it is their author's, and runs. A subclass whose own method never calls on is the provider itself: a line
    in the log says that its code is not run.
    """
    definers = [c for c in author.__mro__ if c not in (BaseChatModel, SimpleChatModel) and _own_methods(c)]
    models = [c for c in definers if issubclass(c, BaseChatModel)]
    if not models:
        return author
    libraries = [c for c in models if c.__module__.startswith("langchain")]
    provider = libraries[0] if libraries else models[-1]
    for cls in reversed(definers[: definers.index(provider)]):
        ends = [name for name, method in _own_methods(cls) if not _calls_on(method)]
        if ends:
            _log.warning(
                "%s.%s does not call super().%s: it is taken for the provider's own code, and inside rollouts the "
                "policy answers in place of all of %s's request methods",
                cls.__name__, ends[0], ends[0], cls.__name__,
            )  # fmt: skip
            provider = cls if issubclass(cls, BaseChatModel) else author
    return provider


def _own_methods(cls: type) -> list[tuple[str, Any]]:
    return [(name, vars(cls)[name]) for name in METHODS if name in vars(cls)]


def _calls_on(method: Any) -> bool:
    code = getattr(inspect.unwrap(method), "__code__", None)
    return code is None or any(name in METHODS for name in _names(code))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def with_held(values: dict[str, Any], replace: Callable[[BaseChatModel], Any]) -> dict[str, Any]:
    """Return the fields of a model whose value is or holds another chat model, with that one replaced.

    One inside a chain stays: a chain calls public methods, which are hooked.
    """
    return {
        name: _replaced(value, replace)
        for name, value in values.items()
        if type(value) not in _PLAIN and name not in BINDINGS and _holds(value)
    }


_PLAIN = frozenset((type(None), str, bool, int, float))
"""Types of most fields; to ask whether a value is a model runs code of `abc`."""


@functools.lru_cache(maxsize=1024)
def _may_hold(*kinds: type) -> bool:
    return any(issubclass(kind, (dict, list, tuple, Runnable)) for kind in kinds)


def _holds(value: Any) -> bool:
    # By type and by `__class__`, as `isinstance` goes: a proxy says that it is what it wraps.
    if not _may_hold(type(value), value.__class__):  # type: ignore[arg-type]  # a type[Any] is hashable
        return False
    if isinstance(value, dict):
        return _any_holds(value.values())
    if isinstance(value, (list, tuple)):
        return _any_holds(value)
    if isinstance(value, BaseChatModel):
        return True
    return isinstance(value, Runnable) and not isinstance(value, BaseTool) and _any_holds(vars(value).values())


def _any_holds(values: Iterable[Any]) -> bool:
    for value in values:  # a loop: a generator would cost as much as what it asks
        if type(value) not in _PLAIN and _holds(value):
            return True
    return False


def _replaced(value: Any, replace: Callable[[BaseChatModel], Any]) -> Any:
    if isinstance(value, BaseChatModel):
        return replace(value)
    if isinstance(value, RunnableBinding) and _holds(value):
        return value.model_copy(update={"bound": _replaced(value.bound, replace)})
    if isinstance(value, dict):
        return {key: _replaced(item, replace) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and _holds(value):
        items = [_replaced(item, replace) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value
