"""What happens around each hooked call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Any

from google.adk.workflow._errors import NodeInterruptedError

from woodshed.capture import (
    AttemptScope,
    Rollout,
    ToolSpan,
    current_call_context,
    current_rollout,
    in_call_context,
    require_rollout,
)
from woodshed.errors import LeakError
from woodshed_adk._author import Unbuildable
from woodshed_adk._convert import dumps, told_text
from woodshed_adk._trainable_llm import TrainableLlm
from woodshed_adk._tree import refuse_untrainable

_log = logging.getLogger("woodshed.adk")


def around_agent(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Stop an agent whose model calls never pass through ADK before it makes one in a rollout."""
    if current_rollout() is not None:
        refuse_untrainable(instance)
    return wrapped(*args, **kwargs)


async def around_get_llm(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Hand the flow the policy in place of the model the author named."""
    context = args[0] if args else kwargs["invocation_context"]
    name = context.agent.name
    rollout = require_rollout(f"a model call of agent {name!r}")
    author = await wrapped(*args, **kwargs)
    if rollout is None:
        return author
    return TrainableLlm(model=author.model, rollout=rollout, agent=name, author=author)


def around_canonical_model(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Name the author's model in a rollout also where ADK cannot build it: it is the policy that answers."""
    try:
        return wrapped(*args, **kwargs)
    except (ValueError, ImportError):
        agent = args[0]
        if current_rollout() is None or not agent.model:
            raise
        # Not by way of the model registry: ADK keeps what that builds on the agent, also after the rollout.
        return Unbuildable(model=agent.model)


async def around_summary(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let the policy write a compaction's summary, whose model is not an agent's."""
    rollout = require_rollout("the model call of a compaction's summarizer")
    if rollout is None:
        return await wrapped(*args, **kwargs)
    # A copy, since the summarizer is the author's, and serves other rollouts at the same time.
    mine = copy.copy(instance)
    mine._llm = TrainableLlm(model=instance._llm.model, rollout=rollout, agent="compaction", author=instance._llm)
    return await wrapped.__func__(mine, *args, **kwargs)


def around_genai(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Stop a model call that goes past ADK to Google's servers."""
    rollout = current_rollout()
    if rollout is not None:
        raise LeakError(
            f"a model call with the Google GenAI SDK ({kwargs.get('model')!r}) goes past the policy of {rollout!r}. "
            "Let an LlmAgent make it, or put it inside `with woodshed.untracked():` if it is not to be trained"
        )
    return wrapped(*args, **kwargs)


class _ToolSpan(ToolSpan):
    """One tool call of an agent; an interrupt is no error."""

    def __init__(self, rollout: Rollout, agent: str, call: Any) -> None:
        """Open the record."""
        context = current_call_context()
        with in_call_context(replace(context, scope=AttemptScope(parent=context.scope, agent=agent, key=call.id))):
            super().__init__(
                rollout,
                tool_call_id=call.id,
                name=call.name,
                arguments=call.args or {},
                control_flow=(NodeInterruptedError,),
            )

    def answered(self, event: Any) -> None:
        """Note what the model is told; no event means that the answer comes later."""
        try:
            responses = event.get_function_responses() if event is not None else ()
            told = responses[0].response if responses else None
            asks_first = bool(event is not None and event.actions.requested_tool_confirmations)
            is_error = isinstance(told, dict) and bool(told.get("error")) and not asks_first
            self.ended(told_text(told) if responses else None, is_error=is_error)
        except Exception:
            _log.exception("the result of tool %r cannot be recorded", self.tool.name)


async def around_tool(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record one tool call, with all its callbacks: what the model asked, and what it is told."""
    rollout = current_rollout()
    if rollout is None:
        return await wrapped(*args, **kwargs)
    prepared = args[1] if len(args) > 1 else kwargs["prepared_call"]
    agent = args[2] if len(args) > 2 else kwargs["agent"]
    with _ToolSpan(rollout, agent.name, prepared.function_call) as span:
        event = await wrapped(*args, **kwargs)
        span.answered(event)
    return event


async def around_tool_body(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Note a tool's true exception, which a callback or a plugin may turn into an answer."""
    opened = current_call_context().tool if current_rollout() is not None else None
    try:
        return await wrapped(*args, **kwargs)
    except Exception as error:
        if opened is not None and not isinstance(error, NodeInterruptedError):
            opened.close(error=error)
        raise


async def around_task(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record a task given to a sub-agent: a function call that ADK answers without running a tool."""
    rollout = current_rollout()
    if rollout is None:
        return await wrapped(*args, **kwargs)
    parent, call = args[0], args[1]
    with _ToolSpan(rollout, parent.name, call) as span:
        output = await wrapped(*args, **kwargs)
        span.ended(dumps(output if isinstance(output, dict) else {"output": output}))
    return output
