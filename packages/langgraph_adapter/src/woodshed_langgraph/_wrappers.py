"""What happens around each hooked model call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import logging
from typing import Any

from langchain_openai.chat_models.base import BaseChatOpenAI

from woodshed.capture import Rollout, in_rollout, method_name
from woodshed.errors import ConfigError
from woodshed_langgraph._convert import to_openai_kwargs
from woodshed_langgraph._substitute import Trainable, substitute

_log = logging.getLogger("woodshed.langgraph")


def around_model(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let the policy answer a call of the author's chat model; its substitute's own calls pass."""
    if isinstance(instance, Trainable):
        return wrapped(*args, **kwargs)
    return _around_author_model(wrapped, instance, args, kwargs)


@in_rollout(model_call=method_name)
def _around_author_model(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    if not isinstance(instance, BaseChatOpenAI):
        kwargs = to_openai_kwargs(kwargs)
    return getattr(substitute(instance, rollout), wrapped.__name__)(*args, **kwargs)


@in_rollout(model_call=method_name)
def around_completions_model(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Stop a legacy text-completion model inside a rollout: the policy speaks chat only."""
    raise ConfigError(
        f"{type(instance).__name__} is a text-completion model, which the policy cannot stand in for; use a chat "
        "model, or put the call inside `with woodshed.untracked():` if it is not to be trained"
    )


@in_rollout
def around_node_cache(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Run a graph without its node cache inside a rollout: a cached answer is another policy's."""
    if kwargs.get("cache") is not None:
        _log.warning("the graph's node cache (%s) is bypassed inside rollouts", type(kwargs["cache"]).__name__)
        kwargs = {**kwargs, "cache": None}
    return wrapped(*args, **kwargs)
