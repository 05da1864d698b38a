"""The policy in place of the author's model: with the author's settings, and asked under a call id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NoReturn

from google.adk.models._capabilities import LlmCapabilities
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from pydantic import BaseModel

from woodshed.capture import (
    CALL_ID_HEADER,
    OpenCall,
    Rollout,
    author_settings,
    in_rollout,
    model_params,
    model_span,
    policy_params,
)
from woodshed.capture.own_errors import watched
from woodshed.errors import ConfigError
from woodshed_adk._author_model import Turn, asks_others, current_turn, held, runs, wants_user_last
from woodshed_adk._convert import to_body, to_response_format
from woodshed_adk._convert_answer import Gathered, own_message, to_response
from woodshed_adk._replay import answered, recall, remember

_ASKED = ("model", "messages", "tools", "stream", "stream_options")
"""What a request says itself."""
_NEEDS_TOOLS = ("tool_choice", "parallel_tool_calls")
_LIMITS = ("max_tokens", "max_completion_tokens")
_DEFAULT_RETRIES = 2

_LIVE = (
    "a live (bidirectional) session cannot run inside a rollout: its audio and text never pass through a chat "
    "completion. Run the agent with `Runner.run_async`"
)


class TrainableLlm(BaseLlm):
    """The model of one agent in one rollout: the policy answers what the author's model would have been asked."""

    rollout: Any
    agent: str | None
    author: Any
    """The author's own model, whose provider is never called."""
    turn: Any = None
    """The turn of the author's model code that asks; None where it has none."""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Yield the policy's answer, in pieces first if it is to be streamed; the author's own code runs around it."""
        if self.turn is None and runs(self.author):
            async with aclosing(Turn(self.rollout, self.agent, self.author).answers(llm_request, stream)) as answers:
                async for answer in answers:
                    yield answer
            return
        if wants_user_last(self.author):
            self.author._maybe_append_user_content(llm_request)
        if not stream:
            yield await self._whole(llm_request)
            return
        gathered = Gathered()
        with self._observed(llm_request) as (call, body):
            chunks = await self._completions(llm_request).create(
                **body, stream=True, stream_options={"include_usage": True}
            )
            async with chunks:
                async for chunk in chunks:
                    for shown in gathered.add(chunk.to_dict()):
                        yield shown
            answer = self._read(call, body, gathered.body(), streamed=True)
        yield answer

    async def _whole(self, llm_request: LlmRequest) -> LlmResponse:
        with self._observed(llm_request) as (call, body):
            # The raw body: parsing it into the SDK's models is slow and drops the reasoning.
            raw = await self._completions(llm_request).with_raw_response.create(**body)
            return self._read(call, body, raw.http_response.json(), streamed=False)

    @contextmanager
    def _observed(self, llm_request: LlmRequest) -> Iterator[tuple[OpenCall, dict[str, Any]]]:
        """Record one model call; yields it and what the engine is asked."""
        rollout: Rollout = self.rollout
        name = llm_request.model or self.model
        with model_span(rollout, author_model=name, agent=self.agent) as call:
            if self.turn is not None:
                self.turn.used.asked(call)
            # Inside the span, so that what cannot be asked of the policy fails the rollout.
            body = _merged(_settings(self.author), to_body(llm_request, lambda *said: recall(rollout, *said)))
            headers = {**body.pop("extra_headers", {}), CALL_ID_HEADER: call.call_id}
            yield call, {"model": name, **body, "extra_headers": headers}

    def _read(self, call: OpenCall, asked: dict[str, Any], body: dict[str, Any], *, streamed: bool) -> LlmResponse:
        """Return an answer; note the tools it asks for and the message as the model wrote it."""
        answer = to_response(body, streamed=streamed)
        answered(self.rollout, answer, call)
        if self.turn is not None:
            self.turn.used.answered(call, answer)
        if answer.content is not None:
            message = own_message(body["choices"][0]["message"])
            ids = [request["id"] for request in message.get("tool_calls", ())]
            for tool_call_id in filter(None, ids):
                self.rollout.recorder.remember_request(tool_call_id, call)
            if all(ids):  # one without an id is given one by ADK, and is then written anew
                remember(self.rollout, answer.content, message, asked["messages"])
        return answer

    def _completions(self, llm_request: LlmRequest) -> Any:
        # The OpenAI SDK takes longer to import than this whole adapter, and is needed in a rollout only.
        from woodshed.capture.clients import async_client

        return async_client(self.rollout, _max_retries(self.author, llm_request)).chat.completions

    def connect(self, llm_request: LlmRequest) -> NoReturn:
        """Raise: a live session cannot be trained."""
        with watched(self.rollout):
            raise ConfigError(_LIVE)


@in_rollout
def around_provider(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Let the policy answer what the author's model code asks of a model of ADK's own."""
    turn = current_turn()
    if turn is None or asks_others(instance):
        return wrapped(*args, **kwargs)
    model = TrainableLlm(model=instance.model, rollout=rollout, agent=turn.agent, author=instance, turn=turn)
    return model.generate_content_async(*args, **kwargs)


def _settings(author: Any) -> dict[str, Any]:
    """Return what the author's model object sets, as arguments of a chat completion."""
    given = author_settings(author)
    if "max_tokens" in author.model_fields_set:  # OpenAILlm and Claude; their default is the library's choice
        given["max_tokens"] = held(author, "max_tokens")
    arguments = dict(held(author, "_additional_args") or {})  # LiteLlm keeps its keyword arguments here
    if arguments.get("n") not in (None, 1):
        raise ConfigError(f"the agent's model sets n={arguments['n']!r}; ADK reads one answer. Leave it out")
    form = arguments.get("response_format")
    if isinstance(form, type) and issubclass(form, BaseModel):
        arguments["response_format"] = to_response_format(form)
    return {
        **model_params({name: value for name, value in given.items() if name not in _ASKED}),
        **policy_params({name: value for name, value in arguments.items() if name not in _ASKED}),
    }


def _merged(settings: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Return a request with the settings of the author's model, which its own take precedence over."""
    out = {*(_NEEDS_TOOLS if not request.get("tools") else ()), *(_LIMITS if "max_tokens" in request else ())}
    merged = {name: value for name, value in settings.items() if name not in out} | request
    for name in ("extra_body", "extra_headers"):
        if both := {**settings.get(name, {}), **request.get(name, {})}:
            merged[name] = both
    return merged


def _max_retries(author: Any, llm_request: LlmRequest) -> int:
    """Return how often the author's model asks again after a failed request."""
    given, http = held(author, "_additional_args") or {}, llm_request.config.http_options
    client = held(held(author, "client"), "max_retries")
    for retries in (client, given.get("num_retries"), given.get("max_retries")):
        if isinstance(retries, int):
            return retries
    for options in (getattr(http, "retry_options", None), held(author, "retry_options")):
        if isinstance(attempts := held(options, "attempts"), int):
            return max(0, attempts - 1)
    return _DEFAULT_RETRIES


class Unbuildable(BaseLlm):
    """Names a model that ADK cannot build here, while the agent's request is written in a rollout."""

    @property
    def capabilities(self) -> LlmCapabilities:
        """Return what ADK assumes of a model it does not know."""
        return LlmCapabilities(output_schema_and_tools=False)

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
        """Raise: the policy answers in its place."""
        raise RuntimeError(f"model {self.model!r} cannot be built here, and is only named in a rollout")
        yield
