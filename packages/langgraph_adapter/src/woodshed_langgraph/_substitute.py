"""The policy in place of the author's chat model: same settings, and the same name towards callbacks."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing
from typing import Any

import openai
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import PrivateAttr

from woodshed.capture import (
    CALL_ID_HEADER,
    OpenCall,
    Rollout,
    author_settings,
    model_params,
    model_span,
    note_model_settings,
)
from woodshed.capture.clients import async_client, sync_client
from woodshed_langgraph._convert import model_name, to_openai_kwargs, to_payload

_CARD_LIMIT = 32_000
"""Tokens. A limit this high is taken for the model card's where the author's library does not name that."""
_COMMON = ("temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty")
_MORE = ("n", "logprobs", "top_logprobs", "extra_body")
_IDENTITY = ("callbacks", "tags", "metadata", "verbose", "disable_streaming", "output_version", "name", "profile")


class Trainable:
    """The methods that send a chat model's requests, mixed in before the author's own class."""

    _woodshed_author: Any
    _woodshed_rollout: Rollout

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
        call: OpenCall | None = kwargs.pop("woodshed_call", None)
        payload: dict[str, Any] = super()._get_request_payload(input_, stop=stop, **kwargs)  # type: ignore[misc]
        if call is None:
            return payload
        sent = to_payload(payload, {CALL_ID_HEADER: call.call_id})
        # An Azure author may name a deployment alone.
        return {"model": model_name(self._woodshed_author), **sent}

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        with self._observed() as call:
            result = super()._generate(  # type: ignore[misc]
                messages, stop=stop, run_manager=run_manager, woodshed_call=call, **kwargs
            )
            self._remember(call, result.generations)
        return result

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        with self._observed() as call:
            result = await super(Trainable, self._in_this_loop())._agenerate(  # type: ignore[misc]
                messages, stop=stop, run_manager=run_manager, woodshed_call=call, **kwargs
            )
            self._remember(call, result.generations)
        return result

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self._observed() as call:
            for chunk in super()._stream(*args, woodshed_call=call, **kwargs):  # type: ignore[misc]
                self._remember(call, (chunk,))
                yield chunk

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with self._observed() as call:
            chunks = super(Trainable, self._in_this_loop())._astream(*args, woodshed_call=call, **kwargs)  # type: ignore[misc]
            async with aclosing(chunks):
                async for chunk in chunks:
                    self._remember(call, (chunk,))
                    yield chunk

    def _observed(self) -> AbstractContextManager[OpenCall]:
        """Record one model call in the current call context."""
        return model_span(self._woodshed_rollout, author_model=model_name(self._woodshed_author))

    def _remember(self, call: OpenCall, generations: Any) -> None:
        """Note which call asked for which tool."""
        for generation in generations:
            message = generation.message
            for request in getattr(message, "tool_call_chunks", None) or getattr(message, "tool_calls", None) or ():
                if request.get("id"):
                    self._woodshed_rollout.recorder.remember_request(request["id"], call)

    def _in_this_loop(self) -> Any:
        """Return a copy with the running loop's client: the model may have been called before any loop ran."""
        client = async_client(self._woodshed_rollout, self.max_retries)  # type: ignore[attr-defined]
        fields = {**self.__dict__, "async_client": client.chat.completions, "root_async_client": client}
        return _assemble(type(self), fields, self.__pydantic_fields_set__, self.__pydantic_private__)  # type: ignore[attr-defined]


def substitute(author: BaseChatModel, rollout: Rollout) -> Any:
    """Return the model that answers for `author` in `rollout`."""
    retries = getattr(author, "max_retries", None)
    retries = retries if isinstance(retries, int) else openai.DEFAULT_MAX_RETRIES
    client = sync_client(rollout, retries)
    settings: dict[str, Any] = {
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
    if isinstance(author, BaseChatOpenAI):
        note_model_settings(author_settings(author))
        fields, named = {**author.__dict__, **settings}, author.__pydantic_fields_set__
    else:
        fields, named = _translated(author)
        fields.update(settings)
    made = _class_for(type(author))
    private = {name: attribute.get_default() for name, attribute in made.__private_attributes__.items()}
    private |= author.__pydantic_private__ or {} if isinstance(author, BaseChatOpenAI) else {}
    return _assemble(made, fields, named, {**private, "_woodshed_author": author, "_woodshed_rollout": rollout})


def _translated(author: BaseChatModel) -> tuple[dict[str, Any], set[str]]:
    """Return the fields of a `ChatOpenAI` that asks for what another provider's model asks for."""
    template = _template()
    fields, named = dict(template.__dict__), set(template.__pydantic_fields_set__)
    fields["model_name"] = model_name(author)
    for name in _COMMON:
        if (value := getattr(author, name, None)) is not None:
            fields[name] = value
    given = to_openai_kwargs(author_settings(author))
    sent = model_params({**(given.get("model_kwargs") or {}), **given})
    fields.update({name: sent[name] for name in _MORE if name in sent})
    fields["stop"] = fields.get("stop") or sent.get("stop")
    fields["seed"] = sent.get("seed") if fields.get("seed") is None else fields["seed"]
    fields["max_tokens"] = _max_tokens(author)
    for name in _IDENTITY:
        if hasattr(author, name):
            fields[name] = getattr(author, name)
    if type(author)._stream is BaseChatModel._stream and type(author)._astream is BaseChatModel._astream:
        fields["disable_streaming"] = True
    if "streaming" in type(author).model_fields:
        fields["streaming"] = author.streaming  # type: ignore[attr-defined]
        named |= {"streaming"} & author.model_fields_set
    return fields, named


def _max_tokens(author: Any) -> int | None:
    """Return the author's own limit in tokens; None for one that a library filled in from the model's card."""
    for name in ("max_tokens", "max_output_tokens", "num_predict"):
        limit = getattr(author, name, None)
        if isinstance(limit, int):
            profile = getattr(author, "profile", None)
            card = profile.get("max_output_tokens") if isinstance(profile, Mapping) else _CARD_LIMIT
            return limit if card is None or limit < card else None
    return None


@functools.cache
def _template() -> ChatOpenAI:
    return ChatOpenAI(model="policy", api_key="one-per-rollout", base_url="http://127.0.0.1:9/v1")  # type: ignore[arg-type]


@functools.cache
def _class_for(author: type[BaseChatModel]) -> Any:
    base = author if issubclass(author, BaseChatOpenAI) else ChatOpenAI
    return type(
        f"Trainable{base.__name__}",
        (Trainable, base),
        {
            "__module__": __name__,
            "__annotations__": {"_woodshed_author": Any, "_woodshed_rollout": Any},
            "_woodshed_author": PrivateAttr(None),
            "_woodshed_rollout": PrivateAttr(None),
        },
    )


def _assemble(made: Any, fields: Mapping[str, Any], named: set[str], private: Mapping[str, Any]) -> Any:
    """Return an instance without running its validators, which would open clients of their own."""
    model = object.__new__(made)
    object.__setattr__(model, "__dict__", dict(fields))
    object.__setattr__(model, "__pydantic_fields_set__", set(named))
    object.__setattr__(model, "__pydantic_extra__", None)
    object.__setattr__(model, "__pydantic_private__", dict(private))
    return model
