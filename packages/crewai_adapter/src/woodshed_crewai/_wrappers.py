"""What happens around each hooked model call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import contextvars
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from crewai.llms.base_llm import BaseLLM

from woodshed.capture import (
    CALL_ID_HEADER,
    AttemptScope,
    OpenCall,
    Rollout,
    bind,
    current_call_context,
    current_rollout,
    in_call_context,
    model_span,
    provider_tool,
    require_rollout,
)
from woodshed.capture.clients import async_client, sync_client
from woodshed.errors import ConfigError
from woodshed_crewai._attempts import one_call, work_at
from woodshed_crewai._convert import (
    agent_name,
    model_name,
    requested_tools,
    to_params,
    tool_arguments,
)


class Exchange:
    """One answer that CrewAI asks a model for: usually one request, sometimes another one with other arguments."""

    def __init__(self, rollout: Rollout, llm: Any, agent: str | None) -> None:
        """Take whose answer it is; the first request begins when its client is taken."""
        self.rollout = rollout
        self.llm = llm
        self.agent = agent
        self.headers: dict[str, str] = {}
        self.call: OpenCall | None = None
        self.tool_requests: dict[str, tuple[str, Any]] = {}
        """Id and arguments of the tools in the answer, by name, where CrewAI runs them inside the model call."""
        self._span = ExitStack()

    def begin_request(self) -> None:
        """Open the record of a request, under a fresh call id; an answer before it was thrown away."""
        if self.call is not None:
            self._span.close()
            self.call.superseded = True
        self._span = ExitStack()
        span = model_span(self.rollout, author_model=model_name(self.llm), agent=self.agent)
        self.call = self._span.enter_context(span)
        self.call.task = getattr(work_at(current_call_context().scope), "task", None)
        self.headers[CALL_ID_HEADER] = self.call.call_id

    def answered(self, answer: Any) -> Any:
        """Note which tools the answer asks for, and return it."""
        for tool_call_id, request in requested_tools(answer):
            if self.call is not None:
                self.rollout.recorder.remember_request(tool_call_id, self.call)
            if isinstance(request, dict) and request.get("function", {}).get("arguments") == "":
                # CrewAI takes no text for no arguments and runs the tool; a blank it refuses as it does elsewhere.
                request["function"]["arguments"] = " "
        return answer

    def __enter__(self) -> Self:
        """Let the client that CrewAI takes know whose request it makes."""
        self._token = _exchange.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the record; an exception is noted and passes untouched."""
        _exchange.reset(self._token)
        scope = current_call_context().scope
        if error is not None and isinstance(scope, AttemptScope) and scope.key is self.llm:
            scope.fail()
        self._span.__exit__(kind, error, trace)


_exchange: contextvars.ContextVar[Exchange | None] = contextvars.ContextVar("woodshed_crewai_exchange", default=None)


def _prepared(rollout: Rollout, llm: Any, args: Any, kwargs: Any) -> tuple[Exchange, Any, Any]:
    """Return the exchange of a `_handle_completion(params, …)`, and its arguments as the policy takes them."""
    exchange = Exchange(rollout, llm, agent_name(kwargs.get("from_agent")))
    params = args[0] if args else kwargs["params"]
    # Where CrewAI does not cut the answer, a stop word on the wire would change it.
    cuts = not (params.get("tools") or kwargs.get("response_model") or params.get("response_format"))
    sent = to_params(params, exchange.headers, llm.stop_sequences if cuts else ())
    if args:
        return exchange, (sent, *args[1:]), kwargs
    return exchange, args, {**kwargs, "params": sent}


def around_completion(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record one answer, from its request to its end."""
    rollout = current_rollout()
    if rollout is None:
        return wrapped(*args, **kwargs)
    exchange, args, kwargs = _prepared(rollout, instance, args, kwargs)
    with exchange:
        return exchange.answered(wrapped(*args, **kwargs))


def around_async_completion(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Record one answer, from its request to its end."""
    rollout = current_rollout()
    return wrapped(*args, **kwargs) if rollout is None else _completion(wrapped, rollout, instance, args, kwargs)


async def _completion(wrapped: Any, rollout: Rollout, instance: Any, args: Any, kwargs: Any) -> Any:
    exchange, args, kwargs = _prepared(rollout, instance, args, kwargs)
    with exchange:
        return exchange.answered(await wrapped(*args, **kwargs))


def around_call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let the requests of one logical call be attempts at it, and stop a call that has lost its rollout."""
    if require_rollout(f"{type(instance).__name__}.call()") is None:
        return wrapped(*args, **kwargs)
    with one_call(instance):
        return wrapped(*args, **kwargs)


def around_async_call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let the requests of one logical call be attempts at it, and stop a call that has lost its rollout."""
    return _async_call(wrapped, instance, args, kwargs)


async def _async_call(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    if require_rollout(f"{type(instance).__name__}.acall()") is None:
        return await wrapped(*args, **kwargs)
    with one_call(instance):
        return await wrapped(*args, **kwargs)


def around_sync_client(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Hand out the rollout's client instead of the author's."""
    rollout = _begun(instance)
    return wrapped(*args, **kwargs) if rollout is None else sync_client(rollout, instance.max_retries)


def around_async_client(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Hand out the rollout's client instead of the author's."""
    rollout = _begun(instance)
    return wrapped(*args, **kwargs) if rollout is None else async_client(rollout, instance.max_retries)


def _begun(llm: Any) -> Rollout | None:
    rollout = require_rollout(f"{type(llm).__name__}({model_name(llm)!r})")
    exchange = _exchange.get()
    if rollout is not None and exchange is not None and exchange.llm is llm:
        exchange.begin_request()
    return rollout


def around_responses(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Ask the policy for a chat completion where the author chose the Responses API (sync and async alike)."""
    if current_rollout() is None:
        return wrapped(*args, **kwargs)
    for kind in instance.builtin_tools or ():
        raise ConfigError(provider_tool(kind))
    twin = "_acall_completions" if wrapped.__name__.startswith("_a") else "_call_completions"
    return getattr(instance, twin)(*args, **kwargs)


def around_token_count(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Estimate a prompt's length here instead of asking the author's provider before every call."""
    if current_rollout() is None:
        return wrapped(*args, **kwargs)
    return BaseLLM.get_input_tokens_count(instance, *args, **kwargs)  # type: ignore[attr-defined]


def around_usage(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Note the tools that CrewAI is about to run inside a model call, as the model wrote them."""
    exchange, answer = _exchange.get(), args[0] if args else kwargs.get("response")
    if exchange is not None and exchange.llm is instance and exchange.call is not None:
        choices = getattr(answer, "choices", None) or ()
        for request in getattr(getattr(choices[0], "message", None), "tool_calls", None) or () if choices else ():
            exchange.rollout.recorder.remember_request(request.id, exchange.call)
            exchange.tool_requests[request.function.name] = (request.id, tool_arguments(request.function.arguments))
    return wrapped(*args, **kwargs)


def requested(name: str) -> tuple[str | None, Any]:
    """Return id and arguments of a tool that CrewAI runs inside the current model call; None where not known."""
    exchange = _exchange.get()
    return exchange.tool_requests.get(name, (None, None)) if exchange is not None else (None, None)


def around_stream(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let a lazy stream run in the rollout and at the place where it was made, wherever it is read.

    `create_…_generator(state, run, output_holder)`.
    """
    rollout = current_rollout()
    if rollout is None:
        return wrapped(*args, **kwargs)
    names = ("state", "run_coro" if "async" in wrapped.__name__ else "run_func", "output_holder")
    found = {**dict(zip(names, args, strict=False)), **kwargs}
    found[names[1]] = _bound(rollout, found[names[1]], is_async=names[1] == "run_coro")
    return wrapped(**found)


def _bound(rollout: Rollout, run: Any, *, is_async: bool) -> Any:
    context = current_call_context()

    def run_bound() -> Any:
        with bind(rollout), in_call_context(context):
            return run()

    async def run_async_bound() -> Any:
        with bind(rollout), in_call_context(context):
            return await run()

    return run_async_bound if is_async else run_bound
