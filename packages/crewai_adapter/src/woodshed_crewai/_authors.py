"""The author's own model code: it runs in a rollout as it does outside, around the policy's answer.

A model class of the author's may add messages, check or change the answer, or ask twice. Where one of CrewAI's own
classes is below it, `super().call(...)` reaches the policy there. A class that talks to a provider itself cannot be
run around anything: the policy answers in its place, and a warning says so.
"""

from __future__ import annotations

import inspect
import logging
from functools import partial
from types import CodeType
from typing import Any

from crewai.llms.base_llm import BaseLLM
from crewai.llms.providers.openai.completion import OpenAICompletion

from woodshed.capture import Around, Rollout, Steps, in_rollout, method_name
from woodshed_crewai._model_calls import one_call, one_override
from woodshed_crewai._substitute import substituted

_log = logging.getLogger("woodshed.crewai")
_warned: set[str] = set()
# Building a client and checking settings are not part of a call; `_format_messages` of another provider is never
# called on the object itself.
_NOT_OF_A_CALL = ("client", "_init", "_normalize", "_validate_init", "_format_messages")


def around_own_call(owner: type, name: str) -> Around:
    """Return what happens around `owner`'s own `call` or `acall`, or one that it inherits from a mixin."""

    @in_rollout(model_call=method_name)
    def around(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
        if not _goes_on(owner, name):
            _warn(
                f"{_of(owner)}.{name}() talks to a provider itself: in a rollout the policy answers in its place, so "
                "the messages it adds and what it makes of the answer are missing from what is trained. To have that "
                f"code run, go on by super().{name}(...) from one of CrewAI's own model classes, or let it ask one"
            )
            with substituted(instance) as model, one_call(instance, args, kwargs) as asked:
                asked.answered(answer := (yield partial(getattr(model, name), *args, **kwargs)))
            return answer
        with one_override(instance, args, kwargs) as override:
            override.answered(answer := (yield partial(wrapped, *args, **kwargs)))
        if override.is_empty:
            _warn(
                f"{_of(owner)}.{name}() answered without a model call that woodshed has seen: its answer is not "
                f"trained as this agent's. Unless it was kept from before, let it go on by super().{name}(...)"
            )
        return answer

    return around


def _goes_on(owner: type, name: str) -> bool:
    """Return whether an override asks a model that CrewAI knows: its code, or what it uses of its class, says `call`.

    That is `super().call(...)` as well as a model that it wraps, `self.inner.call(...)`. CrewAI's OpenAI class reaches
    the policy whatever part of it is used.
    """
    if issubclass(owner, OpenAICompletion):
        return True
    todo, seen = [name], set[str]()
    while todo:
        seen.add(method := todo.pop())
        code = getattr(inspect.unwrap(inspect.getattr_static(owner, method)), "__code__", None)
        names = _names(code) if code is not None else {"call"}
        if names & {"call", "acall"}:
            return True
        todo += [one for one in names - seen if _is_authors(owner, one)]
    return False


def _is_authors(owner: type, method: str) -> bool:
    held = inspect.getattr_static(owner, method, None)
    return inspect.isroutine(held) and not is_crewais(defined_at(owner, method))


def _names(code: CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return {*code.co_names, *(name for one in inner for name in _names(one))}


def defined_at(model_class: type, name: str) -> type:
    """Return the class whose method `model_class` answers to, itself or one that it inherits from."""
    return next(parent for parent in model_class.__mro__ if name in vars(parent))


def keep_overrides(llm: Any, substitute: Any) -> None:
    """Let the author's overrides of what every provider has in common run on a substitute; warn of the others."""
    authors: list[type] = []
    providers: list[type] = []
    for parent in type(llm).__mro__[: type(llm).__mro__.index(BaseLLM)]:
        (providers if is_crewais(parent) else authors).append(parent)
    left = set()
    for name in {name for parent in authors for name, held in vars(parent).items() if inspect.isroutine(held)}:
        if name.startswith("__") or name in ("call", "acall") or any(part in name for part in _NOT_OF_A_CALL):
            continue
        if any(name in vars(parent) for parent in providers):
            left.add(name)
        elif name in vars(BaseLLM):
            object.__setattr__(substitute, name, getattr(llm, name))
    # What others ask of a model (`supports_…`, `get_…`) they ask the author's object, which is still in place.
    if left := {name for name in left if name.startswith("_")}:
        _warn(
            f"{_of(type(llm))} overrides {', '.join(sorted(left))}, which only its own provider's requests go "
            "through: in a rollout the policy answers instead and that code does not run, so what it changes is "
            "missing from what is trained. Override call() and acall() instead, and go on by super()"
        )


def is_crewais(model_class: type) -> bool:
    """Return whether a class is CrewAI's own."""
    return model_class.__module__.partition(".")[0] == "crewai"


def _of(model_class: type) -> str:
    return f"{model_class.__module__}.{model_class.__qualname__}"


def _warn(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        _log.warning(message)
