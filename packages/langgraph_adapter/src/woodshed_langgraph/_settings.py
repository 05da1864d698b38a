"""The settings of another provider's model → those of a `ChatOpenAI` that asks for the same."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI

from woodshed.capture import author_settings, model_params
from woodshed_langgraph._convert import model_name, to_openai_kwargs

_CARD_LIMIT = 32_000
"""Tokens. A limit this high is taken for the model card's where the author's library does not name that."""
_COMMON = ("temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty")
_MORE = ("n", "logprobs", "top_logprobs", "extra_body")
_IDENTITY = ("callbacks", "tags", "metadata", "verbose", "disable_streaming", "output_version", "name", "profile")


def translated(author: BaseChatModel) -> tuple[dict[str, Any], set[str]]:
    """Return the fields of a `ChatOpenAI` that asks for what another provider's model asks for."""
    fields, named = dict(template().__dict__), set(template().__pydantic_fields_set__)
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
def template() -> ChatOpenAI:
    return ChatOpenAI(model="policy", api_key="one-per-rollout", base_url="http://127.0.0.1:9/v1")  # type: ignore[arg-type]
