"""What happens around each hooked model call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import logging
import sys
from typing import Any

from langchain_core.language_models import BaseChatModel
from langgraph.pregel import _retry

from woodshed.capture import Rollout, in_rollout, method_name
from woodshed.errors import ConfigError
from woodshed_langgraph import _substitute
from woodshed_langgraph._answers import Ask
from woodshed_langgraph._attempts import current_task
from woodshed_langgraph._substitute import Trainable, substitute

_log = logging.getLogger("woodshed.langgraph")


def around_model(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let the policy answer a call of the author's chat model; its substitute's own calls pass."""
    if isinstance(instance, Trainable):
        return wrapped(*args, **kwargs)
    return _around_author_model(wrapped, instance, args, kwargs)


@in_rollout(model_call=method_name)
def _around_author_model(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    model = substitute(instance, rollout, _asked_through_a_handler())
    # The base class's method, not the author's: an override of the author's has brought us here, and runs once.
    return getattr(BaseChatModel, wrapped.__name__).__get__(model)(*args, **kwargs)


_MODEL_NODES = ("_execute_model_sync", "_execute_model_async")
_NODE_STARTS, _MODEL_ASKS = vars(_retry), vars(_substitute)


def _asked_through_a_handler() -> Ask | None:
    """Return the questions of the agent's model node, if this is one: what `wrap_model_call` middlewares call.

    Only the stack tells it from a call that a middleware makes for itself, such as one that selects tools.
    """
    task = current_task()
    if task is None:
        return None
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _MODEL_NODES and frame.f_globals.get("__name__") == "langchain.agents.factory":
            return task.asked
        if frame.f_globals is _NODE_STARTS or frame.f_globals is _MODEL_ASKS:
            return None
        frame = frame.f_back  # type: ignore[assignment]
    return None


@in_rollout
def around_refusal(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> None:
    """Notice that an agent's answer is not the structured output that was asked for."""
    wrapped(*args, **kwargs)
    if (task := current_task()) is not None:
        task.asked.refuse(instance.ai_message)


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
