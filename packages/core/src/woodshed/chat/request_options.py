"""Optional request parameters that one server accepts, learned from the requests it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from woodshed.chat.model import ChatModel, Question, Structured

_FALLBACK: dict[Structured, Structured] = {"auto": "json_object", "json_schema": "json_object", "json_object": "none"}
_FORMAT_WORDS = ("response_format", "json_schema", "json_object", "structured", "guided", "grammar")


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """The optional parameters sent with a request to one server."""

    structured: Structured
    can_fall_back: bool
    """True for `structured="auto"`: after a refusal the next, less strict output format is tried."""
    temperature: float | None
    """None when the server accepts only its default, as reasoning models do."""
    max_tokens: int | None
    limit_name: str = "max_tokens"
    """OpenAI's newer models accept only `max_completion_tokens`."""

    @classmethod
    def of(cls, model: ChatModel) -> Self:
        """Return the options of the first request."""
        return cls(
            structured="json_schema" if model.structured == "auto" else model.structured,
            can_fall_back=model.structured == "auto",
            temperature=model.temperature,
            max_tokens=model.max_tokens,
        )

    def without(self, refusal: str) -> Self | None:
        """Return the options to try after a 400 with the text `refusal`; None if it names no parameter we can drop."""
        text = refusal.lower()
        if self.can_fall_back and self.structured in _FALLBACK and any(word in text for word in _FORMAT_WORDS):
            return replace(self, structured=_FALLBACK[self.structured])
        if self.max_tokens is not None and self.limit_name == "max_tokens" and "max_completion_tokens" in text:
            return replace(self, limit_name="max_completion_tokens")
        if self.temperature is not None and "temperature" in text:
            return replace(self, temperature=None)
        return None

    def parameters(self, question: Question) -> dict[str, Any]:
        """Return the optional parameters of a request, as keyword arguments of the OpenAI client."""
        parameters: dict[str, Any] = {}
        if self.temperature is not None:
            parameters["temperature"] = self.temperature
        if self.max_tokens is not None:
            parameters[self.limit_name] = self.max_tokens
        if self.structured == "json_object":
            parameters["response_format"] = {"type": "json_object"}
        if self.structured == "json_schema":
            schema = {"name": "answer", "strict": True, "schema": question.schema}
            parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
        return parameters
