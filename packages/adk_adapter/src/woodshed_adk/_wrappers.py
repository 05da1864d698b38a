"""What happens around each hooked model call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import copy
from typing import Any

from woodshed.capture import Rollout, in_rollout
from woodshed.errors import LeakError
from woodshed_adk._substitute import TrainableLlm, Unbuildable
from woodshed_adk._tree import refuse_untrainable


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
    return TrainableLlm(model=author.model, rollout=rollout, agent=_agent(args, kwargs), author=author)


@in_rollout
def around_canonical_model(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Return the author's model; where ADK cannot build it, a substitute that bears its name in a rollout."""
    try:
        return wrapped(*args, **kwargs)
    except (ValueError, ImportError):
        agent = args[0]
        if not agent.model:
            raise
        # Not by way of the model registry: ADK keeps what that builds on the agent, also after the rollout.
        return Unbuildable(model=agent.model)


@in_rollout(model_call=_summarizers_call)
async def around_summary(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let the policy write a compaction's summary, whose model is not an agent's."""
    # A copy, since the summarizer is the author's, and serves other rollouts at the same time.
    summarizer = copy.copy(instance)
    summarizer._llm = TrainableLlm(model=instance._llm.model, rollout=rollout, agent="compaction", author=instance._llm)
    return await wrapped.__func__(summarizer, *args, **kwargs)


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
