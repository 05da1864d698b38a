"""The model an agent is handed inside a rollout: the policy, asked under a call id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse

from woodshed.capture import CALL_ID_HEADER, OpenCall, Rollout, model_span
from woodshed.errors import ConfigError
from woodshed_adk._answer import Gathered, own_message, to_response
from woodshed_adk._author import max_retries, settings, wants_user_last
from woodshed_adk._convert import to_body
from woodshed_adk._replay import answered, recall, remember

LIVE = (
    "a live (bidirectional) session cannot run inside a rollout: its audio and text never pass through a chat "
    "completion. Run the agent with `Runner.run_async`"
)


class TrainableLlm(BaseLlm):
    """Stands in for the author's model in one turn of one agent."""

    rollout: Any
    agent: str | None
    author: Any
    """The author's own model, which is never called."""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Yield the policy's answer, in pieces first if it is to be streamed."""
        if wants_user_last(self.author):
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
            # The raw body: parsing it into the SDK's models costs more than all else here, and drops the reasoning.
            raw = await self._completions().with_raw_response.create(**body)
            return self._read(call, raw.http_response.json(), streamed=False)

    @contextmanager
    def _observed(self, llm_request: LlmRequest) -> Iterator[tuple[OpenCall, dict[str, Any]]]:
        """Record one model call; yields it and what the engine is asked."""
        rollout: Rollout = self.rollout
        body = {**settings(self.author), **to_body(llm_request, lambda content: recall(rollout, content))}
        name = llm_request.model or self.model
        with model_span(rollout, author_model=name, agent=self.agent) as call:
            yield call, {"model": name, **body, "extra_headers": {CALL_ID_HEADER: call.call_id}}

    def _read(self, call: OpenCall, body: dict[str, Any], *, streamed: bool) -> LlmResponse:
        """Return an answer, and keep what it asked for and in which words."""
        answer = to_response(body, streamed=streamed)
        answered(self.rollout, answer, call)
        if answer.content is not None:
            message = own_message(body["choices"][0]["message"])
            ids = [request["id"] for request in message.get("tool_calls", ())]
            for found in filter(None, ids):
                self.rollout.recorder.remember_request(found, call)
            if all(ids):  # one without an id is given one by ADK, and is then written anew
                remember(self.rollout, answer.content, message)
        return answer

    def _completions(self) -> Any:
        # The OpenAI SDK takes longer to import than this whole adapter, and is needed in a rollout only.
        from woodshed.capture.clients import async_client

        return async_client(self.rollout, max_retries(self.author)).chat.completions

    def connect(self, llm_request: LlmRequest) -> NoReturn:
        """Raise: a live session cannot be trained."""
        raise ConfigError(LIVE)
