"""What happens around each hooked model call. Outside a rollout: nothing but the call itself."""

from __future__ import annotations

import contextvars
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

from crewai.llm import LLM
from crewai.llms.base_llm import BaseLLM

from woodshed.capture import (
    CALL_ID_HEADER,
    AttemptScope,
    OpenCall,
    Rollout,
    Steps,
    author_settings,
    bind,
    current_call_context,
    in_call_context,
    in_rollout,
    method_name,
    model_span,
    note_model_settings,
    provider_tool,
)
from woodshed.capture.clients import async_client, sync_client
from woodshed.errors import ConfigError
from woodshed_crewai._attempts import work_at
from woodshed_crewai._authors import keep_overrides
from woodshed_crewai._convert import agent_name, model_name, requested_tools, to_params, tool_arguments
from woodshed_crewai._executions import in_flight
from woodshed_crewai._model_calls import one_call
from woodshed_crewai._substitute import instructor_client, substitute, substituted


class Exchange:
    """One answer that CrewAI asks a model for: usually one request, sometimes another one with other arguments."""

    def __init__(self, rollout: Rollout, llm: Any, agent: str | None) -> None:
        """Note whose answer it is; the first request begins when CrewAI takes a client."""
        self.rollout = rollout
        self.llm = llm
        self.agent = agent
        self.headers: dict[str, str] = {}
        self.call: OpenCall | None = None
        self.tool_requests: dict[str, tuple[str, Any]] = {}
        """Id and arguments of the tools in the answer, by name, where CrewAI runs them inside the model call."""
        self._span = ExitStack()

    def begin_request(self) -> None:
        """Open the record of a request, under a fresh call id; an earlier answer is superseded."""
        if self.call is not None:
            self._span.close()
            self.call.superseded = True
        self._span = ExitStack()
        span = model_span(self.rollout, author_model=model_name(self.llm), agent=self.agent)
        self.call = self._span.enter_context(span)
        self.call.task = getattr(work_at(current_call_context().scope), "task", None)
        self._span.enter_context(in_flight(self.call))
        self.headers[CALL_ID_HEADER] = self.call.call_id

    def answered(self, answer: Any) -> Any:
        """Note which tools the answer asks for, and return it."""
        for tool_call_id, request in requested_tools(answer):
            if self.call is not None:
                self.rollout.recorder.remember_request(tool_call_id, self.call)
            if isinstance(request, dict) and request.get("function", {}).get("arguments") == "":
                # CrewAI reads "" as no arguments and runs the tool; it refuses a blank, as it does on its other paths.
                request["function"]["arguments"] = " "
        return answer

    def __enter__(self) -> Self:
        """Make this the exchange whose request begins when CrewAI takes a client."""
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
    note_model_settings(author_settings(llm))
    exchange = Exchange(rollout, llm, agent_name(kwargs.get("from_agent")))
    params = args[0] if args else kwargs["params"]
    # Stop words are sent only where CrewAI cuts the answer at them; elsewhere they would change it.
    cuts = not (params.get("tools") or kwargs.get("response_model") or params.get("response_format"))
    sent = to_params(params, exchange.headers, llm.stop_sequences if cuts else ())
    if args:
        return exchange, (sent, *args[1:]), kwargs
    return exchange, args, {**kwargs, "params": sent}


@in_rollout
def around_completion(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Record one answer, from its request to its end."""
    exchange, args, kwargs = _prepared(rollout, instance, args, kwargs)
    with exchange:
        return exchange.answered((yield partial(wrapped, *args, **kwargs)))


@in_rollout(model_call=method_name)
def around_call(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Let the requests of one logical call be attempts at it, and stop a call that has lost its rollout."""
    with one_call(instance, args, kwargs) as call:
        call.answered(answer := (yield partial(wrapped, *args, **kwargs)))
    return answer


def _named_model(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> str:
    return f"{type(instance).__name__}({model_name(instance)!r})"


def _begin_request(llm: Any) -> None:
    """Begin a request where CrewAI takes a client for an answer of `llm`."""
    exchange = _exchange.get()
    if exchange is not None and exchange.llm is llm:
        exchange.begin_request()


@in_rollout(model_call=_named_model)
def around_sync_client(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Hand out the rollout's client instead of the author's."""
    _begin_request(instance)
    return sync_client(rollout, instance.max_retries)


@in_rollout(model_call=_named_model)
def around_async_client(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Hand out the rollout's client instead of the author's."""
    _begin_request(instance)
    return async_client(rollout, instance.max_retries)


@in_rollout
def around_responses(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Ask the policy for a chat completion where the author chose the Responses API (sync and async alike)."""
    for kind in instance.builtin_tools or ():
        raise ConfigError(provider_tool(kind))
    twin = "_acall_completions" if wrapped.__name__.startswith("_a") else "_call_completions"
    return getattr(instance, twin)(*args, **kwargs)


@in_rollout
def around_token_count(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Estimate a prompt's length here instead of asking the author's provider before every call."""
    return BaseLLM.get_input_tokens_count(instance, *args, **kwargs)  # type: ignore[attr-defined]


@in_rollout
def around_usage(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
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


@in_rollout(model_call=method_name)
def around_foreign_call(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Let the policy answer a call of another provider's model (`call` and `acall`)."""
    with substituted(instance) as model, one_call(instance, args, kwargs) as call:
        keep_overrides(instance, model)
        ask = getattr(model, wrapped.__name__)
        call.answered(answer := (yield partial(ask, *args, **kwargs)))
    return answer


@in_rollout
def around_foreign_client(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Stop a request to another provider: the policy answers its calls, so only an author's own code makes one."""
    raise ConfigError(
        f"{type(instance).__module__}.{type(instance).__qualname__} asks its provider for {model_name(instance)!r} "
        "inside a rollout, past call(). Let its own code go on by super().call(...), or put the request inside "
        "`with woodshed.untracked():` if it is not to be trained"
    )


@in_rollout
def around_construction(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Give a model that cannot be built here (no package, no key) a substitute inside a rollout (`LLM.__new__`)."""
    try:
        return wrapped(*args, **kwargs)
    except ImportError as error:
        if args[0] is not LLM and error.__cause__ is None:
            # No LiteLLM here, which the policy does without; the author's own class runs around it.
            return object.__new__(args[0])
        name = kwargs.get("model") or (args[1] if len(args) > 1 else None)
        if not isinstance(name, str):
            raise
        return _unbuilt(name, {key: value for key, value in kwargs.items() if key != "model"}, error)


def _unbuilt(name: str, settings: dict[str, Any], error: ImportError) -> Any:
    try:
        model = substitute(name, settings)
    except ValueError:
        raise error from None
    model._woodshed_cause = error
    return model


@in_rollout
def around_instructor_client(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Open no client of the author's provider inside a rollout; `to_pydantic` brings its own."""
    return None


@in_rollout(model_call=method_name)
def around_instructor(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let the policy do the structured conversion that CrewAI gives to the `instructor` library."""
    before = instance._client
    instance._client = instructor_client(rollout, instance)
    try:
        return wrapped(*args, **kwargs)
    finally:
        instance._client = before


@in_rollout
def around_stream(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Run a lazy stream in the rollout and the call context in which it was made, wherever it is read.

    `create_…_generator(state, run, output_holder)`.
    """
    names = ("state", "run_coro" if "async" in wrapped.__name__ else "run_func", "output_holder")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    given[names[1]] = _bound(rollout, given[names[1]], is_async=names[1] == "run_coro")
    return wrapped(**given)


def _bound(rollout: Rollout, run: Any, *, is_async: bool) -> Any:
    context = current_call_context()

    def run_bound() -> Any:
        with bind(rollout), in_call_context(context):
            return run()

    async def run_async_bound() -> Any:
        with bind(rollout), in_call_context(context):
            return await run()

    return run_async_bound if is_async else run_bound
