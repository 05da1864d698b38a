"""The methods of a chat model that send its requests: they go to the policy, and each is recorded as one call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai.chat_models.base import BaseChatOpenAI

from woodshed.capture import OpenCall, Rollout, model_span
from woodshed_langgraph._answers import Ask
from woodshed_langgraph._convert import model_name

METHODS = ("_generate", "_agenerate", "_stream", "_astream")
"""The methods in which a chat model's class talks to its provider."""


class Bound:
    """What a substitute knows beside the author's fields. It is bound to the object, which threads cannot lose.

    Every name is prefixed: the author's class has methods and attributes of its own.
    """

    _woodshed_author: BaseChatModel
    _woodshed_rollout: Rollout
    _woodshed_ask: Ask | None
    """What the model is asked as a part of."""
    _woodshed_place: Any
    """Which of the models that are asked there it is; None for the only one."""
    _woodshed_call: OpenCall | None
    """The recorded call that the next request belongs to."""


BINDINGS = frozenset(Bound.__annotations__)
"""The names of what a substitute knows beside the author's fields."""


class OpenAIRequests(Bound):
    """Placed right above LangChain's own methods, so that whatever a subclass does around them it does around these."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        with self._woodshed_observed(messages) as (copy, ask):
            generate = super(OpenAIRequests, copy)._generate  # type: ignore[misc]
            result = generate(messages, stop=stop, run_manager=run_manager, **kwargs)
            self._woodshed_remember(ask, result.generations)
        return result

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        with self._woodshed_observed(messages) as (copy, ask):
            generate = super(OpenAIRequests, copy)._agenerate  # type: ignore[misc]
            result = await generate(messages, stop=stop, run_manager=run_manager, **kwargs)
            self._woodshed_remember(ask, result.generations)
        return result

    def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self._woodshed_observed(messages) as (copy, ask):
            for chunk in super(OpenAIRequests, copy)._stream(messages, *args, **kwargs):  # type: ignore[misc]
                self._woodshed_remember(ask, (chunk,), piece=True)
                yield chunk

    async def _astream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with self._woodshed_observed(messages) as (copy, ask):
            stream = super(OpenAIRequests, copy)._astream  # type: ignore[misc]
            async with aclosing(stream(messages, *args, **kwargs)) as chunks:
                async for chunk in chunks:
                    self._woodshed_remember(ask, (chunk,), piece=True)
                    yield chunk

    @contextmanager
    def _woodshed_observed(self, messages: Any) -> Iterator[tuple[Any, Ask]]:
        """Record one model call in the current call context; yield a copy of the model that sends its call id."""
        ask = Ask(messages) if self._woodshed_ask is None else self._woodshed_ask.part(messages)
        with model_span(self._woodshed_rollout, author_model=model_name(self._woodshed_author)) as call:
            ask.own_calls.append(call)
            try:
                yield copy_with(self, _woodshed_call=call), ask
            except Exception:
                ask.failed = True
                raise

    def _woodshed_remember(self, ask: Ask, generations: Any, *, piece: bool = False) -> None:
        """Note the answer, and which call asked for which tool."""
        for generation in generations:
            message = generation.message
            ask.add_answer(message, piece=piece)
            for request in getattr(message, "tool_call_chunks", None) or getattr(message, "tool_calls", None) or ():
                if request.get("id"):
                    self._woodshed_rollout.recorder.remember_request(request["id"], ask.own_calls[0])


class OpenAILeaf(OpenAIRequests, BaseChatOpenAI):
    """The methods below every subclass of `BaseChatOpenAI`."""


class ProviderRequests(Bound):
    """Placed right above another provider's methods: the policy answers in their place."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        return self._woodshed_policy()._generate(messages, stop=stop, run_manager=run_manager, **kwargs)

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        return await self._woodshed_policy()._agenerate(messages, stop=stop, run_manager=run_manager, **kwargs)

    def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from self._woodshed_policy()._stream(messages, *args, **kwargs)

    async def _astream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with aclosing(self._woodshed_policy()._astream(messages, *args, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _woodshed_policy(self) -> Any:
        """Return the policy as a chat model of its own, which asks as a part of what this one is asked."""
        raise NotImplementedError


def copy_with(model: Any, **fields: Any) -> Any:
    """Return a copy of a chat model with other fields, and the same private attributes."""
    return assemble(
        type(model), {**model.__dict__, **fields}, model.__pydantic_fields_set__, model.__pydantic_private__
    )


def assemble(made: Any, fields: Mapping[str, Any], named: set[str], private: Any) -> Any:
    """Return an instance without running its validators, which would open clients of their own."""
    model = object.__new__(made)
    object.__setattr__(model, "__dict__", dict(fields))
    object.__setattr__(model, "__pydantic_fields_set__", set(named))
    object.__setattr__(model, "__pydantic_extra__", None)
    object.__setattr__(model, "__pydantic_private__", private)
    return model
