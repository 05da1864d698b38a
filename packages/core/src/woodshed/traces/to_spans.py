"""A trace → OpenInference spans with the GenAI attributes beside them: a rollout, its agents, model calls and tools.

Ids are made of the rollout's and the calls' own ids, so that a trace that is sent twice is the same trace.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from woodshed.traces import conventions as names
from woodshed.traces.conventions import (
    MessageAttributes,
    MessageContentAttributes,
    OpenInferenceSpanKindValues,
    ResourceAttributes,
    SpanAttributes,
    ToolAttributes,
    ToolCallAttributes,
)
from woodshed.traces.conversation import Conversation, Json, Trace, openai_message, openai_tool, strict_json, text_of
from woodshed.traces.otlp import Event, ReadableSpan, Resource, SpanContext, Status, StatusCode, context, span
from woodshed.traces.recorded import packed
from woodshed.types import Failure, ModelCall, ToolCall

_Attributes = dict[str, Any]
_NS = 1e9
_PROVIDER = "vllm"


def to_spans(trace: Trace, *, agent: str, model: str | None, session: str) -> list[ReadableSpan]:
    """Return a trace as spans.

    Args:
        trace: At least one call.
        agent: Name of the rollout's span, and of the agents that have none.
        model: The policy's model.
        session: What attempts at one scenario have in common.
    """
    return list(_Spans(trace, agent, model, session).all())


class _Spans:
    def __init__(self, trace: Trace, agent: str, model: str | None, session: str) -> None:
        self._trace, self._agent, self._model = trace, agent, model
        self._id = _digest(trace.id, 16)
        self._root = self._context("rollout")
        self._resource = Resource.create({"service.name": "woodshed", ResourceAttributes.PROJECT_NAME: agent})
        self._common = {SpanAttributes.SESSION_ID: session, names.GENAI_CONVERSATION: trace.id}
        self._owner = {
            turn.call.tokens.call_id: conversation
            for conversation in trace.conversations
            for turn in conversation.turns
            if turn.call is not None
        }

    def all(self) -> Iterator[ReadableSpan]:
        tools = [ToolCall.model_validate(call) for call in self._trace.about.get("tool_calls", ())]
        calls = self._trace.calls
        yield self._rollout(calls)
        for conversation in self._trace.conversations[1:]:
            yield self._member(conversation)
        for call in calls:
            yield self._model_call(call)
        for number, tool in enumerate(tools):
            yield self._tool_call(number, tool, calls)

    def _context(self, *path: str) -> SpanContext:
        return context(self._id, _digest("/".join((self._trace.id, *path)), 8))

    def _made(
        self, name: str, own: SpanContext, parent: SpanContext | None, attributes: _Attributes, **fields: Any
    ) -> ReadableSpan:
        known = {key: value for key, value in (self._common | attributes).items() if value is not None}
        return span(name, own, parent, self._resource, known, **fields)

    def _rollout(self, calls: Sequence[ModelCall]) -> ReadableSpan:
        about = self._trace.about
        started, ended = _between(calls)
        first = self._trace.conversations[0].messages if self._trace.conversations else ()
        score = about.get("score") or {}
        attributes = {
            SpanAttributes.OPENINFERENCE_SPAN_KIND: OpenInferenceSpanKindValues.AGENT.value,
            SpanAttributes.INPUT_VALUE: next((text_of(m) for m in first if m["role"] == "user"), None),
            SpanAttributes.OUTPUT_VALUE: self._last_answer(),
            SpanAttributes.METADATA: _json({k: about[k] for k in ("scenario_id", "slot", "metrics") if k in about}),
            names.GENAI_OPERATION: "invoke_agent",
            names.GENAI_AGENT: self._agent,
            names.OWN_ABOUT: _json({k: v for k, v in about.items() if k != "tool_calls"}),
            names.OWN_SCORE: score.get("value"),
        }
        events = [_evaluation(score, ended)] if score else []
        failure = Failure.model_validate(about["error"]) if about.get("error") else None
        return self._made(
            self._agent, self._root, None, attributes,
            started=started, ended=ended, status=_status(failure), events=events,
        )  # fmt: skip

    def _last_answer(self) -> str | None:
        turns = self._trace.conversations[0].turns if self._trace.conversations else ()
        return next((text_of(turn.message) for turn in reversed(turns) if turn.sampled), None)

    def _member(self, conversation: Conversation) -> ReadableSpan:
        calls = [turn.call for turn in conversation.turns if turn.call is not None]
        started, ended = _between(calls)
        name = conversation.agent or self._agent
        attributes = {
            SpanAttributes.OPENINFERENCE_SPAN_KIND: OpenInferenceSpanKindValues.AGENT.value,
            SpanAttributes.AGENT_NAME: name,
            names.GENAI_OPERATION: "invoke_agent",
            names.GENAI_AGENT: name,
        }
        asked_by = conversation.parent_call_id
        parent = self._context("call", asked_by) if asked_by in self._owner else self._root
        return self._made(
            name, self._context("agent", conversation.id), parent, attributes, started=started, ended=ended
        )

    def _under(self, call_id: str | None) -> SpanContext:
        owner = self._owner.get(call_id or "")
        is_member = owner is not None and owner is not self._trace.conversations[0]
        return self._context("agent", owner.id) if owner is not None and is_member else self._root

    def _model_call(self, call: ModelCall) -> ReadableSpan:
        tokens, note = call.tokens, call.note
        prompt = [openai_message(message) for message in tokens.messages]
        answers = [openai_message(c.message, c.reasoning) for c in tokens.completions]
        sampled = sum(len(completion.token_ids) for completion in tokens.completions)
        attributes = {
            SpanAttributes.OPENINFERENCE_SPAN_KIND: OpenInferenceSpanKindValues.LLM.value,
            SpanAttributes.LLM_MODEL_NAME: self._model,
            SpanAttributes.LLM_INVOCATION_PARAMETERS: _json(tokens.sampling),
            SpanAttributes.LLM_TOKEN_COUNT_PROMPT: len(tokens.prompt_ids) or None,
            SpanAttributes.LLM_TOKEN_COUNT_COMPLETION: sampled or None,
            SpanAttributes.LLM_TOKEN_COUNT_TOTAL: len(tokens.prompt_ids) + sampled or None,
            SpanAttributes.INPUT_VALUE: _json({"messages": prompt}),
            SpanAttributes.INPUT_MIME_TYPE: "application/json",
            SpanAttributes.OUTPUT_VALUE: _json(answers[0]) if answers else None,
            SpanAttributes.OUTPUT_MIME_TYPE: "application/json" if answers else None,
            SpanAttributes.AGENT_NAME: None if note is None else note.agent,
            names.GENAI_AGENT: None if note is None else note.agent,
            names.GENAI_OPERATION: "chat",
            names.GENAI_PROVIDER: _PROVIDER,
            names.GENAI_MODEL: self._model,
            names.GENAI_TEMPERATURE: tokens.sampling.get("temperature"),
            names.GENAI_INPUT_TOKENS: len(tokens.prompt_ids) or None,
            names.GENAI_OUTPUT_TOKENS: sampled or None,
            names.GENAI_FINISH_REASONS: [c.finish_reason or "unknown" for c in tokens.completions] or None,
            names.GENAI_RESPONSE_ID: tokens.call_id,
            names.OWN_PARENT_CALL: None if note is None else note.parent_call_id,
            names.OWN_CALL: _json(_without_answers(call)),
            **_messages(SpanAttributes.LLM_INPUT_MESSAGES, prompt),
            **_messages(SpanAttributes.LLM_OUTPUT_MESSAGES, answers),
            **_tools([openai_tool(tool) for tool in tokens.tools]),
        }
        return self._made(
            f"chat {self._model or ''}".strip(),
            self._context("call", tokens.call_id),
            self._under(tokens.call_id),
            attributes,
            started=tokens.started_s * _NS,
            ended=(tokens.started_s + tokens.latency_s) * _NS,
            status=_status(tokens.error),
            is_client=True,
        )

    def _tool_call(self, number: int, tool: ToolCall, calls: Sequence[ModelCall]) -> ReadableSpan:
        asked = next((c for c in reversed(calls) if tool.tool_call_id in _requests(c)), None)
        started = _between([asked] if asked is not None else calls)[1]
        arguments = tool.arguments if isinstance(tool.arguments, str) else _json(tool.arguments)
        attributes = {
            SpanAttributes.OPENINFERENCE_SPAN_KIND: OpenInferenceSpanKindValues.TOOL.value,
            SpanAttributes.TOOL_NAME: tool.name,
            SpanAttributes.TOOL_PARAMETERS: arguments,
            SpanAttributes.INPUT_VALUE: arguments,
            SpanAttributes.OUTPUT_VALUE: tool.result,
            ToolCallAttributes.TOOL_CALL_ID: tool.tool_call_id,
            names.GENAI_OPERATION: "execute_tool",
            names.GENAI_TOOL_NAME: tool.name,
            names.GENAI_TOOL_CALL_ID: tool.tool_call_id,
        }
        return self._made(
            f"execute_tool {tool.name}",
            self._context("tool", str(number)),
            self._under(None if asked is None else asked.tokens.call_id),
            attributes,
            started=started,
            ended=started + tool.latency_s * _NS,
            status=_status(tool.error),
        )


def _without_answers(call: ModelCall) -> Json:
    kept = packed(call)
    for completion in kept["tokens"].get("completions", ()):
        completion.pop("message", None)
        completion.pop("reasoning", None)
    return kept


def _requests(call: ModelCall) -> set[str | None]:
    return {request.id for c in call.tokens.completions for request in c.message.tool_requests}


def _between(calls: Sequence[ModelCall]) -> tuple[float, float]:
    """Return when the first call began and the last one ended, in nanoseconds."""
    started = min((call.tokens.started_s for call in calls), default=0.0)
    ended = max((call.tokens.started_s + call.tokens.latency_s for call in calls), default=0.0)
    return started * _NS, ended * _NS


def _messages(prefix: str, messages: Sequence[Json]) -> _Attributes:
    found: _Attributes = {}
    for number, message in enumerate(messages):
        at = f"{prefix}.{number}"
        found[f"{at}.{MessageAttributes.MESSAGE_ROLE}"] = message["role"]
        found |= _content(at, message)
        for key, name in (
            ("name", MessageAttributes.MESSAGE_NAME),
            ("tool_call_id", MessageAttributes.MESSAGE_TOOL_CALL_ID),
        ):
            found[f"{at}.{name}"] = message.get(key)
        for place, call in enumerate(message.get("tool_calls") or ()):
            under = f"{at}.{MessageAttributes.MESSAGE_TOOL_CALLS}.{place}"
            found[f"{under}.{ToolCallAttributes.TOOL_CALL_ID}"] = call["id"]
            found[f"{under}.{ToolCallAttributes.TOOL_CALL_FUNCTION_NAME}"] = call["function"]["name"]
            found[f"{under}.{ToolCallAttributes.TOOL_CALL_FUNCTION_ARGUMENTS_JSON}"] = call["function"]["arguments"]
    return found


def _content(at: str, message: Json) -> _Attributes:
    """Return a message's text; thoughts are a part of their own, as OpenInference has it."""
    if message.get("reasoning") is None:
        return {f"{at}.{MessageAttributes.MESSAGE_CONTENT}": message.get("content")}
    found: _Attributes = {}
    for number, (kind, text) in enumerate((("reasoning", message["reasoning"]), ("text", message.get("content")))):
        under = f"{at}.{MessageAttributes.MESSAGE_CONTENTS}.{number}"
        if text is not None:
            found[f"{under}.{MessageContentAttributes.MESSAGE_CONTENT_TYPE}"] = kind
            found[f"{under}.{MessageContentAttributes.MESSAGE_CONTENT_TEXT}"] = text
    return found


def _tools(tools: Sequence[Mapping[str, Any]]) -> _Attributes:
    under = f"{SpanAttributes.LLM_TOOLS}.{{}}.{ToolAttributes.TOOL_JSON_SCHEMA}"
    return {under.format(number): _json(tool) for number, tool in enumerate(tools)}


def _evaluation(score: Json, ended: float) -> Event:
    attributes = {names.GENAI_EVALUATION_NAME: "reward", names.GENAI_EVALUATION_SCORE: score["value"]}
    if score.get("explanation"):
        attributes[names.GENAI_EVALUATION_EXPLANATION] = score["explanation"]
    return Event(names.GENAI_EVALUATION_EVENT, attributes, timestamp=int(ended))


def _status(error: Failure | None) -> Status:
    return Status(StatusCode.ERROR, str(error)) if error is not None else Status(StatusCode.OK)


def _json(value: Any) -> str:
    return json.dumps(strict_json(value), ensure_ascii=False)


def _digest(text: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1
