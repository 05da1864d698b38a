"""The policy in place of the author's chat model: same settings, and the same name towards callbacks.

What the author's class does around its requests it goes on doing. `Trainable` comes before that class, and the methods
that send requests (`_requests`) are placed below the author's code and above the library's.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import openai
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI

from woodshed.capture import (
    CALL_ID_HEADER,
    Rollout,
    author_settings,
    current_call_context,
    model_span,
    note_model_settings,
)
from woodshed.capture.clients import async_client, sync_client
from woodshed_langgraph._answers import Ask
from woodshed_langgraph._author_code import provider_of, with_held
from woodshed_langgraph._convert import model_name, to_openai_kwargs, to_payload
from woodshed_langgraph._requests import METHODS, Bound, OpenAILeaf, ProviderRequests, assemble, copy_with
from woodshed_langgraph._settings import template, translated

_log = logging.getLogger("woodshed.langgraph")


class Trainable(Bound):
    """What comes before the author's own class: its name towards callbacks, and one question with its answer."""

    _woodshed_translates = False
    """Whether the author wrote for another provider than the class that answers."""

    @property
    def _serialized(self) -> Any:
        return self._woodshed_author._serialized

    @property
    def _llm_type(self) -> Any:
        return self._woodshed_author._llm_type

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        return self._woodshed_author._get_ls_params(stop=stop, **kwargs)

    def _get_invocation_params(self, stop: Any = None, **kwargs: Any) -> Any:
        return self._woodshed_author._get_invocation_params(stop=stop, **kwargs)

    def _use_responses_api(self, payload: Any) -> bool:
        return False

    def _get_request_payload(self, input_: Any, *, stop: Any = None, **kwargs: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(input_, stop=stop, **kwargs)  # type: ignore[misc]
        ask, call = self._woodshed_ask, self._woodshed_call
        if ask is None or not isinstance(self, BaseChatOpenAI):
            return payload
        if call is None:
            # The author's own method sends this request itself.
            with model_span(self._woodshed_rollout, author_model=model_name(self._woodshed_author)) as call:
                ask.part(input_ if isinstance(input_, list) else ()).own_calls.append(call)
        sent = to_payload(payload, {CALL_ID_HEADER: call.call_id})
        # An Azure author may name a deployment alone.
        return {"model": model_name(self._woodshed_author), **sent}

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        with self._woodshed_asked(messages) as (model, ask):
            generate = super(Trainable, model)._generate  # type: ignore[misc]
            result = generate(messages, stop=stop, **self._woodshed_arguments(generate, run_manager, kwargs))
            for generation in result.generations:
                ask.add_answer(generation.message)
        return result

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        with self._woodshed_asked(messages) as (model, ask):
            generate = super(Trainable, model._woodshed_in_this_loop())._agenerate  # type: ignore[misc]
            result = await generate(messages, stop=stop, **self._woodshed_arguments(generate, run_manager, kwargs))
            for generation in result.generations:
                ask.add_answer(generation.message)
        return result

    def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self._woodshed_asked(messages) as (model, ask):
            for chunk in super(Trainable, model)._stream(messages, *args, **self._woodshed_translated(kwargs)):  # type: ignore[misc]
                ask.add_answer(chunk.message, piece=True)
                yield chunk

    async def _astream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with self._woodshed_asked(messages) as (model, ask):
            stream = super(Trainable, model._woodshed_in_this_loop())._astream  # type: ignore[misc]
            async with aclosing(stream(messages, *args, **self._woodshed_translated(kwargs))) as chunks:
                async for chunk in chunks:
                    ask.add_answer(chunk.message, piece=True)
                    yield chunk

    @contextmanager
    def _woodshed_asked(self, messages: Any) -> Iterator[tuple[Any, Ask]]:
        """Open one question; which of its requests' answers was used is known at its end."""
        around, recorder = self._woodshed_ask, self._woodshed_rollout.recorder
        ask = Ask(messages) if around is None else around.part(messages, self._woodshed_place)
        calls = len(recorder.open_calls())
        try:
            yield self._woodshed_asking(ask), ask
        except Exception:
            ask.failed = True
            ask.settle(current_call_context().scope, None)
            raise
        ask.settle(current_call_context().scope, ask.answers)
        if len(recorder.open_calls()) == calls:
            _warn_of_own_answer(type(self._woodshed_author))

    def _woodshed_asking(self, ask: Ask) -> Any:
        """Return a copy that asks, with all models it holds, as a part of `ask`."""

        def held_model(model: BaseChatModel) -> Any:
            return copy_with(substitute(model, self._woodshed_rollout, ask), _woodshed_place=id(model))

        copy = copy_with(self, _woodshed_ask=ask, _woodshed_place=None, **with_held(self.__dict__, held_model))
        private = with_held(copy.__pydantic_private__ or {}, held_model)
        if private:
            object.__setattr__(copy, "__pydantic_private__", {**copy.__pydantic_private__, **private})
        return copy

    def _woodshed_arguments(self, generate: Any, run_manager: Any, kwargs: Any) -> dict[str, Any]:
        """Return the arguments of a `_generate`, with the run manager where it takes one, as LangChain does."""
        given = {"run_manager": run_manager} if _takes_run_manager(getattr(generate, "__func__", generate)) else {}
        return given | self._woodshed_translated(kwargs)

    def _woodshed_translated(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return to_openai_kwargs(kwargs) if self._woodshed_translates else kwargs

    def _woodshed_in_this_loop(self) -> Any:
        """Return a copy with the running loop's client: the model may have been called before any loop ran."""
        if not isinstance(self, BaseChatOpenAI):
            return self
        client = async_client(self._woodshed_rollout, self.max_retries)  # type: ignore[arg-type]
        return copy_with(self, async_client=client.chat.completions, root_async_client=client)


@functools.lru_cache(maxsize=256)
def _takes_run_manager(generate: Any) -> bool:
    return "run_manager" in inspect.signature(generate).parameters


@functools.cache
def _warn_of_own_answer(author: type) -> None:
    _log.warning(
        "%s answered without calling super()._generate or a model it holds: that answer is not recorded as the "
        "policy's call, with its agent and attempt",
        author.__name__,
    )


class _AroundProvider(Trainable):
    """The author's own code around another provider's methods (`ProviderRequests`)."""

    def _woodshed_policy(self) -> Any:
        return _stand_in(self._woodshed_author, self._woodshed_rollout, self._woodshed_ask)


class _InPlaceOfProvider(Trainable):
    """The policy in place of another provider's class as a whole."""

    _woodshed_translates = True


def substitute(author: BaseChatModel, rollout: Rollout, ask: Ask | None = None) -> Any:
    """Return the model that answers for `author` in `rollout`, asked as a part of `ask`."""
    if isinstance(author, Trainable):
        return copy_with(author, _woodshed_ask=ask)
    if isinstance(author, BaseChatOpenAI):
        note_model_settings(author_settings(author))
        fields = {**author.__dict__, **_clients(author, rollout)}
        return _bound(_openai_class(type(author)), author, fields, rollout, ask)
    holds = with_held({**author.__dict__, **(author.__pydantic_private__ or {})}, lambda model: model)
    made = _holder_class(type(author)) if holds else _provider_class(type(author))
    if made is None:
        return _stand_in(author, rollout, ask)
    return _bound(made, author, {**author.__dict__, "cache": False, "rate_limiter": None}, rollout, ask)


def _stand_in(author: BaseChatModel, rollout: Rollout, ask: Ask | None) -> Any:
    """Return a `ChatOpenAI` that asks for what another provider's model asks for."""
    fields, named = translated(author)
    fields |= _clients(author, rollout)
    bound = _bindings(author, rollout, ask)
    return assemble(_stand_in_class(), {**fields, **bound}, named, dict(template().__pydantic_private__ or {}))


def _bound(made: Any, author: BaseChatModel, fields: dict[str, Any], rollout: Rollout, ask: Ask | None) -> Any:
    """Return an instance with the author's private attributes themselves: what its code keeps there it finds again."""
    named, private = author.__pydantic_fields_set__, author.__pydantic_private__
    return assemble(made, {**fields, **_bindings(author, rollout, ask)}, named, private)


def _bindings(author: BaseChatModel, rollout: Rollout, ask: Ask | None) -> dict[str, Any]:
    return {
        "_woodshed_author": author,
        "_woodshed_rollout": rollout,
        "_woodshed_ask": ask,
        "_woodshed_place": None,
        "_woodshed_call": None,
    }


def _clients(author: BaseChatModel, rollout: Rollout) -> dict[str, Any]:
    """Return the fields of a `BaseChatOpenAI` that send its requests to the policy."""
    retries = getattr(author, "max_retries", None)
    retries = retries if isinstance(retries, int) else openai.DEFAULT_MAX_RETRIES
    client = sync_client(rollout, retries)
    return {
        "client": client.chat.completions,
        "root_client": client,
        "async_client": None,
        "root_async_client": None,
        "max_retries": retries,
        "cache": False,
        "rate_limiter": None,
        "use_responses_api": False,
        "stream_chunk_timeout": None,
    }


@functools.cache
def _openai_class(author: type[BaseChatOpenAI]) -> Any:
    below = (OpenAILeaf,) if author is BaseChatOpenAI else (author, OpenAILeaf)
    return _class(author, (Trainable, *below), {})


@functools.cache
def _stand_in_class() -> Any:
    return _class(ChatOpenAI, (_InPlaceOfProvider, ChatOpenAI, OpenAILeaf), {})


@functools.cache
def _holder_class(author: type[BaseChatModel]) -> Any:
    return _class(author, (Trainable, author), _missing(author))


@functools.cache
def _provider_class(author: type[BaseChatModel]) -> Any:
    """Return the class for an author who wrote code around a provider's; None where there is none."""
    provider = provider_of(author)
    if provider is author:
        return None
    leaf = _class(provider, (ProviderRequests, provider), {})
    return _class(author, (_AroundProvider, author, leaf), _missing(author))


def _missing(author: type[BaseChatModel]) -> dict[str, Any]:
    """Return the methods the author's model lacks: LangChain asks by identity whether a model can stream."""
    inherited = {name: getattr(BaseChatModel, name) for name in METHODS}
    return {name: method for name, method in inherited.items() if getattr(author, name) is method}


def _class(named: type, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
    return type(f"Trainable{named.__name__}", bases, {"__module__": __name__, **namespace})
