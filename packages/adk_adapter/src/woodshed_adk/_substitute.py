"""The policy in place of the author's model: with the author's settings, and asked under a call id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from google.adk.models._capabilities import LlmCapabilities
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse

from woodshed.capture import CALL_ID_HEADER, OpenCall, Rollout, model_span
from woodshed.errors import ConfigError
from woodshed_adk._convert import to_body
from woodshed_adk._convert_answer import Gathered, own_message, to_response
from woodshed_adk._replay import answered, recall, remember

_SETTINGS = (
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "presence_penalty",
    "frequency_penalty",
)  # fmt: skip
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
    """The author's own model, which is never called."""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Yield the policy's answer, in pieces first if it is to be streamed."""
        if _wants_user_last(self.author):
            self._maybe_append_user_content(llm_request)
        if not stream:
            yield await self._whole(llm_request)
            return
        gathered = Gathered()
        with self._observed(llm_request) as (call, body):
            chunks = await self._completions().create(**body, stream=True, stream_options={"include_usage": True})
            async with chunks:
                async for chunk in chunks:
                    for shown in gathered.add(chunk.to_dict()):
                        yield shown
            answer = self._read(call, gathered.body(), streamed=True)
        yield answer

    async def _whole(self, llm_request: LlmRequest) -> LlmResponse:
        with self._observed(llm_request) as (call, body):
            # The raw body: parsing it into the SDK's models is slow and drops the reasoning.
            raw = await self._completions().with_raw_response.create(**body)
            return self._read(call, raw.http_response.json(), streamed=False)

    @contextmanager
    def _observed(self, llm_request: LlmRequest) -> Iterator[tuple[OpenCall, dict[str, Any]]]:
        """Record one model call; yields it and what the engine is asked."""
        rollout: Rollout = self.rollout
        body = {**_settings(self.author), **to_body(llm_request, lambda content: recall(rollout, content))}
        name = llm_request.model or self.model
        with model_span(rollout, author_model=name, agent=self.agent) as call:
            yield call, {"model": name, **body, "extra_headers": {CALL_ID_HEADER: call.call_id}}

    def _read(self, call: OpenCall, body: dict[str, Any], *, streamed: bool) -> LlmResponse:
        """Return an answer; note the tools it asks for and the message as the model wrote it."""
        answer = to_response(body, streamed=streamed)
        answered(self.rollout, answer, call)
        if answer.content is not None:
            message = own_message(body["choices"][0]["message"])
            ids = [request["id"] for request in message.get("tool_calls", ())]
            for tool_call_id in filter(None, ids):
                self.rollout.recorder.remember_request(tool_call_id, call)
            if all(ids):  # one without an id is given one by ADK, and is then written anew
                remember(self.rollout, answer.content, message)
        return answer

    def _completions(self) -> Any:
        # The OpenAI SDK takes longer to import than this whole adapter, and is needed in a rollout only.
        from woodshed.capture.clients import async_client

        return async_client(self.rollout, _max_retries(self.author)).chat.completions

    def connect(self, llm_request: LlmRequest) -> NoReturn:
        """Raise: a live session cannot be trained."""
        raise ConfigError(_LIVE)


def _settings(author: Any) -> dict[str, Any]:
    """Return the sampling settings of the author's model object; those of a request take precedence."""
    given = dict(getattr(author, "_additional_args", None) or {})  # LiteLlm keeps its keyword arguments here
    if "max_tokens" in author.model_fields_set:  # OpenAILlm and Claude; their default is the library's choice
        given["max_tokens"] = author.max_tokens
    return {name: given[name] for name in _SETTINGS if given.get(name) is not None}


def _max_retries(author: Any) -> int:
    """Return how often the author's model asks again after a failed request."""
    client, options = getattr(author, "client", None), getattr(author, "retry_options", None)
    for retries in (getattr(client, "max_retries", None), getattr(author, "_additional_args", {}).get("num_retries")):
        if isinstance(retries, int):
            return retries
    attempts = getattr(options, "attempts", None)
    return max(0, attempts - 1) if isinstance(attempts, int) else _DEFAULT_RETRIES


def _wants_user_last(author: Any) -> bool:
    """Return whether the author's model adds a user's turn where the model itself spoke last.

    ADK's models for Google and LiteLLM do; those for OpenAI and Anthropic do not.
    """
    return not type(author).__module__.startswith(("google.adk.integrations.openai", "google.adk.models.anthropic"))


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
