"""The author's own model class: what of its code runs around the policy's answers, and what of it cannot.

A class that derives from one of ADK's models may change the request, ask several times and rewrite answers. All of that
runs in a rollout, too: the policy takes the place of `generate_content_async` of the nearest model of ADK's own.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.models.registry import LLMRegistry
from pydantic import BaseModel

from woodshed.capture import Around, Hook, HookSet, Rollout
from woodshed.capture.generators import holding, stepped
from woodshed.capture.propagate import propagate
from woodshed_adk._used import Used

_log = logging.getLogger("woodshed.adk")
_ASK = "generate_content_async"
_RUN_OR_NEVER_ASKED = {*dir(BaseModel), _ASK, "connect", "supported_models", "_maybe_append_user_content"}
_told: set[tuple[str, str]] = set()


def warn_once(kind: type, why: str, remedy: str) -> None:
    """Log once per class what of the author's is left out in rollouts."""
    if (kind.__qualname__, why) not in _told:
        _told.add((kind.__qualname__, why))
        _log.warning("model class %s.%s %s. %s", kind.__module__, kind.__qualname__, why, remedy)


class Turn:
    """One turn of an agent whose model has code of its own, and the policy's answers in it."""

    def __init__(self, rollout: Rollout, agent: str | None, author: BaseLlm) -> None:
        """Begin without an answer."""
        self.rollout = rollout
        self.agent = agent
        self.used = Used(rollout)
        self._author = author

    async def answers(self, request: LlmRequest, stream: bool) -> AsyncGenerator[LlmResponse, None]:
        """Yield what the author's code makes of the policy's answers; those it does not use are superseded."""
        shown = False
        try:
            # Step by step: what is set for the author's code is not to be seen by the agent that reads it.
            async with aclosing(stepped(self._inside(request, stream))) as responses:  # type: ignore[type-var]
                async for response in responses:
                    shown = shown or not response.partial
                    self.used.shown(response)
                    yield response
        finally:
            self.used.settle()
        if shown and not self.used.calls:
            warn_once(
                type(self._author),
                "answered without asking the model it derives from, so that nothing was recorded",
                "Where it is not from a cache, let it ask with super().generate_content_async(...)",
            )

    async def _inside(self, request: LlmRequest, stream: bool) -> AsyncGenerator[LlmResponse, None]:
        with holding(_turn, self):
            async for response in self._author.generate_content_async(request, stream):
                yield response


_turn: ContextVar[Turn | None] = propagate(ContextVar("woodshed_adk_turn", default=None))


def current_turn() -> Turn | None:
    """Return the turn that the author's model code runs in; None outside any."""
    return _turn.get()


def runs(author: BaseLlm) -> bool:
    """Return whether the author's model has code of its own to run around the policy; say once what cannot run."""
    if asks_others(author):
        return True
    kind = type(author)
    base = _provider(kind)
    if base is None:
        if not kind.__module__.startswith("woodshed_adk."):
            warn_once(
                kind,
                "asks its provider itself: in rollouts the policy answers in its place, and none of its code runs",
                "What it does to requests and answers is lost: derive it from the model of ADK's that it is like and "
                "ask with super().generate_content_async(...), or do that in before_model_callback and "
                "after_model_callback",
            )
        return False
    _say_what_is_left_out(author, base)
    return _asks_itself(kind)


def has_own_code(kind: type[BaseLlm]) -> bool:
    """Return whether a model class of the author's changes what is asked of a model of ADK's."""
    return _asks_itself(kind) and _provider(kind) is not None


def asks_others(author: BaseLlm) -> bool:
    """Return whether a model is a shell around others: of the author's own, or ADK's around the author's."""
    held = list(_models(author))
    own = _provider(type(author)) is None
    return bool(held) and (own or any(asks_others(model) or _asks_itself(type(model)) for model in held))


def wants_user_last(author: BaseLlm) -> bool:
    """Return whether the author's model adds a user's turn where the model itself spoke last.

    ADK's models for Google and LiteLLM do; those for OpenAI and Anthropic do not.
    """
    module = (_provider(type(author)) or type(author)).__module__
    return not module.startswith(("google.adk.integrations.openai", "google.adk.models.anthropic"))


def held(owner: Any, name: str) -> Any:
    """Return what an object of the author's holds under a name, None if nothing.

    Never by way of a property: one that is computed when it is first read may build the author's client, and fail for a
    key that a rollout does not need.
    """
    for values in (_dict(owner), _dict(owner, "__pydantic_private__")):
        if name in values:
            return values[name]
    value = inspect.getattr_static(type(owner), name, None)
    return None if hasattr(type(value), "__get__") else value


def _dict(owner: Any, name: str = "__dict__") -> Mapping[str, Any]:
    try:
        values = object.__getattribute__(owner, name)
    except AttributeError:
        return {}
    return values if isinstance(values, Mapping) else {}


def _is_adks(kind: type) -> bool:
    return kind.__module__.startswith("google.adk.")


def _provider(kind: type) -> type | None:
    """Return the nearest model of ADK's own that a class derives from."""
    return next((base for base in kind.__mro__ if _is_adks(base) and base is not BaseLlm and _ASK in vars(base)), None)


def _asks_itself(kind: type) -> bool:
    return not _is_adks(next(base for base in kind.__mro__ if _ASK in vars(base)))


def _models(author: BaseLlm) -> Iterator[BaseLlm]:
    """Yield the models that a model holds, also by the name of a class that the author registered."""
    waiting = [*_dict(author).values(), *_dict(author, "__pydantic_private__").values()]
    names = held(author, "models")
    while waiting:
        value = waiting.pop()
        if isinstance(value, BaseLlm):
            yield value
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        elif isinstance(value, Mapping):
            waiting += value.values()
    for name in names if isinstance(names, list) and _is_adks(type(author)) else ():
        if isinstance(name, str) and (kind := registered(name)) is not None and has_own_code(kind):
            yield kind.model_construct(model=name)


def registered(name: str) -> type[BaseLlm] | None:
    """Return the class that ADK's registry has for a model's name, None where it has none."""
    try:
        return LLMRegistry.resolve(name)
    except (ValueError, ImportError):
        return None


def _say_what_is_left_out(author: BaseLlm, base: type) -> None:
    inside = {name for kind in base.__mro__ if _is_adks(kind) for name in vars(kind) if not name.startswith("__")}
    for kind in type(author).__mro__:
        if kind is base:
            break
        for name, value in vars(kind).items():
            if inspect.isfunction(value) and name in inside - _RUN_OR_NEVER_ASKED and "client" not in name:
                warn_once(
                    type(author),
                    f"overrides {name}, which runs inside its provider's call and so not in rollouts",
                    "If it changes requests or answers, do that in generate_content_async, around super()'s",
                )
    client = held(author, "llm_client")
    if client is not None and not _is_adks(type(client)):
        warn_once(
            type(author),
            f"asks with a client of the author's, llm_client={type(client).__qualname__}, which rollouts never ask",
            "If it changes requests or answers, do that in generate_content_async, around super()'s",
        )


class Providers:
    """The hooks at `generate_content_async` of ADK's own models, made as they are imported and needed."""

    def __init__(self, around: Around) -> None:
        """Hook nothing yet."""
        self._around = around
        self._hooks: dict[type, HookSet] = {}

    def apply(self) -> None:
        """Hook every model of ADK's that is imported."""
        for kind in _subclasses(BaseLlm):
            if _is_adks(kind) and _ASK in vars(kind):
                hooks = HookSet((Hook(kind.__module__, f"{kind.__qualname__}.{_ASK}", self._around),))
                # One for each class, whichever thread comes first.
                self._hooks.setdefault(kind, hooks).apply()

    def revert(self) -> None:
        """Put every model back as it was."""
        for hooks in list(self._hooks.values()):
            hooks.revert()


def _subclasses(kind: type) -> Iterator[type]:
    below: type
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)
