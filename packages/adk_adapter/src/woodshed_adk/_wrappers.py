"""What happens around each hooked model call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import copy
from typing import Any

from google.adk.models.llm_response import LlmResponse

from woodshed.capture import Rollout, in_rollout
from woodshed.errors import ConfigError, LeakError
from woodshed_adk._author_model import Providers, has_own_code, registered
from woodshed_adk._replay import call_behind
from woodshed_adk._substitute import TrainableLlm, Unbuildable, around_provider
from woodshed_adk._tree import refuse_untrainable
from woodshed_adk._used import keeps, warn_replaced

PROVIDERS = Providers(around_provider)
"""Hooked where the author's model code is about to ask them."""


def _agent(args: Any, kwargs: Any) -> str:
    """Return the agent of a `_get_llm(invocation_context)`."""
    context = args[0] if args else kwargs["invocation_context"]
    return str(context.agent.name)


def _agents_call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> str:
    return f"a model call of agent {_agent(args, kwargs)!r}"


def _summarizers_call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> str:
    return "the model call of a compaction's summarizer"


@in_rollout(model_call=_agents_call)
async def around_model(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Hand the flow the policy in place of the model the author named."""
    author = await wrapped(*args, **kwargs)
    PROVIDERS.apply()
    return TrainableLlm(model=author.model, rollout=rollout, agent=_agent(args, kwargs), author=author)


@in_rollout
def around_canonical_model(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Return the author's model; where ADK cannot build it, a substitute that bears its name in a rollout."""
    try:
        return wrapped(*args, **kwargs)
    except Exception as error:
        agent = args[0]
        if not agent.model or not isinstance(agent.model, str):
            raise
        kind = registered(agent.model)
        if kind is not None and has_own_code(kind):
            raise ConfigError(
                f"model {agent.model!r} of agent {agent.name!r} has code of its own, which runs around the policy's "
                f"answers, but its class {kind.__qualname__} cannot be built here: {type(error).__name__}: {error}. "
                "Give it what it needs, a placeholder for a key included: its provider is not asked in a rollout"
            ) from error
        # Not by way of the model registry: ADK keeps what that builds on the agent, also after the rollout.
        return Unbuildable(model=agent.model)


@in_rollout(model_call=_summarizers_call)
async def around_summary(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let the policy write a compaction's summary, whose model is not an agent's."""
    # A copy, since the summarizer is the author's, and serves other rollouts at the same time.
    PROVIDERS.apply()
    summarizer = copy.copy(instance)
    summarizer._llm = TrainableLlm(model=instance._llm.model, rollout=rollout, agent="compaction", author=instance._llm)
    return await wrapped.__func__(summarizer, *args, **kwargs)


@in_rollout
async def around_after_model(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Notice an answer that a callback or a plugin puts another in the place of."""
    given: LlmResponse = args[1] if len(args) > 1 else kwargs["llm_response"]
    call = None if given.partial else call_behind(rollout, given)
    before = given.model_copy(deep=True) if call is not None else given
    instead = await wrapped(*args, **kwargs)
    if call is not None and instead and instead is not given and not keeps(before, instead):
        call.superseded = True
        warn_replaced(call)
    return instead


@in_rollout
def around_agent(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Stop an agent whose model calls never pass through ADK before it makes one in a rollout."""
    refuse_untrainable(instance)
    return wrapped(*args, **kwargs)


@in_rollout
def around_genai(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Stop a model call that bypasses ADK: the bare Google GenAI SDK."""
    raise LeakError(
        f"a model call with the Google GenAI SDK ({kwargs.get('model')!r}) goes past the policy of {rollout!r}. "
        "Let an LlmAgent make it, or put it inside `with woodshed.untracked():` if it is not to be trained"
    )
