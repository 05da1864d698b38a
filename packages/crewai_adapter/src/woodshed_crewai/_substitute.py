"""The policy in place of a model of another class than CrewAI's OpenAI one, or of one that cannot be built."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from crewai.llms import base_llm
from crewai.llms.providers.openai.completion import OpenAICompletion
from pydantic import BaseModel, PrivateAttr

from woodshed.capture import (
    CALL_ID_HEADER,
    AttemptScope,
    Rollout,
    author_settings,
    current_call_context,
    in_scope,
    model_params,
    model_span,
)
from woodshed.capture.clients import sync_client
from woodshed.errors import ConfigError
from woodshed_crewai._attempts import work_at
from woodshed_crewai._convert import agent_name, model_name, to_params
from woodshed_crewai._executions import in_flight

_SETTINGS = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "response_format", "max_retries")
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_FIELDS = (*_SETTINGS, *_LIMITS)
_SET_HERE = ("model", "stop", "stream", "tools", "max_retries", "additional_params")
_CARD_LIMIT = 32_000
"""Tokens. CrewAI fills in a limit this high from the model's card; it is not the author's and not the policy's."""


@functools.cache
def _trainable() -> Any:
    """Return the class of substitutes: made at the first use, since a pydantic class takes milliseconds."""

    class TrainableCompletion(OpenAICompletion):
        """Asks the policy what another model would have been asked; it has no provider of its own."""

        _woodshed_cause: BaseException | None = PrivateAttr(None)

        def _build_sync_client(self) -> Any:
            raise ConfigError(
                f"{self.model!r} was built inside a rollout, where the policy answers for it, and cannot be called "
                f"outside: {self._woodshed_cause}"
            )

        def _build_async_client(self) -> Any:
            return self._build_sync_client()

    TrainableCompletion.__module__ = __name__
    return TrainableCompletion


def substitute(model: str, settings: Mapping[str, Any]) -> Any:
    kept = {name: settings[name] for name in (*_SETTINGS, "stream", "stop") if settings.get(name) is not None}
    limits = [settings[name] for name in _LIMITS if isinstance(settings.get(name), int)]
    if limits and limits[0] < _CARD_LIMIT:
        kept["max_tokens"] = limits[0]
    more = {name: settings[name] for name in settings if name not in (*kept, *_LIMITS, *_SET_HERE)}
    more |= settings.get("additional_params") or {}
    return _trainable()(model=model, additional_params=model_params(more), **kept)


def _shadow(llm: Any) -> Any:
    """Return the substitute for one call of `llm`: what its author set, and the same usage counters."""
    given = author_settings(llm) if isinstance(llm, BaseModel) else {}
    named = {name: getattr(llm, name, None) for name in getattr(llm, "model_fields_set", ()) if name in _FIELDS}
    made = substitute(model_name(llm), {n: v for n, v in {**given, **named}.items() if n not in ("stop", "stream")})
    if isinstance(usage := getattr(llm, "_token_usage", None), dict):
        made._token_usage = usage
    return made


@contextmanager
def substituted(llm: Any) -> Iterator[Any]:
    """Yield the substitute, with the stop words and the streaming that are in effect for `llm` in this call."""
    made = _shadow(llm)
    with (
        base_llm.call_stop_override(made, list(llm.stop_sequences)),
        base_llm.call_stream_override(made, bool(llm._effective_stream())),
    ):
        yield made


def instructor_client(rollout: Rollout, instance: Any) -> Any:
    """Return an `instructor` client of the policy; each of its requests is a call, a repeated one the next attempt."""
    import instructor  # takes seconds, and is only needed here

    client = sync_client(rollout).copy()
    completions, context = client.chat.completions, current_call_context()
    create, scope = completions.create, AttemptScope(parent=context.scope, agent=context.agent, key=instance, attempt=0)

    def create_observed(*args: Any, **kwargs: Any) -> Any:
        scope.try_again()
        headers: dict[str, str] = {}
        sent = to_params(kwargs, headers)
        with in_scope(scope), _span(rollout, instance) as call, in_flight(call):
            headers[CALL_ID_HEADER] = call.call_id
            call.task = getattr(work_at(context.scope), "task", None)
            return create(*args, **sent)

    completions.create = create_observed  # type: ignore[method-assign]
    return instructor.from_openai(client)


def _span(rollout: Rollout, instance: Any) -> Any:
    return model_span(rollout, author_model=model_name(instance.llm), agent=agent_name(instance.agent))
