"""How one server wants to be asked: which optional parameters it takes, learned from what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from woodshed.chat.model import ChatModel, Question, Structured

_STEPS_DOWN: dict[Structured, Structured] = {"auto": "json_object", "json_schema": "json_object", "json_object": "none"}
_FORM_WORDS = ("response_format", "json_schema", "json_object", "structured", "guided", "grammar")


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """The parameters a request to one server carries."""

    structured: Structured
    may_step_down: bool
    """True for `structured="auto"`: a refused form is replaced by a looser one."""
    temperature: float | None
    """None where the server takes only its own, as reasoning models do."""
    max_tokens: int | None
    limit_name: str = "max_tokens"
    """OpenAI's newer models take `max_completion_tokens` only."""

    @classmethod
    def of(cls, model: ChatModel) -> Self:
        """Return what is tried first."""
        return cls(
            structured="json_schema" if model.structured == "auto" else model.structured,
            may_step_down=model.structured == "auto",
            temperature=model.temperature,
            max_tokens=model.max_tokens,
        )

    def without(self, refusal: str) -> Self | None:
        """Return what to try after a 400 that says `refusal`, or None where it names nothing that can be left out."""
        said = refusal.lower()
        if self.may_step_down and self.structured in _STEPS_DOWN and any(word in said for word in _FORM_WORDS):
            return replace(self, structured=_STEPS_DOWN[self.structured])
        if self.max_tokens is not None and self.limit_name == "max_tokens" and "max_completion_tokens" in said:
            return replace(self, limit_name="max_completion_tokens")
        if self.temperature is not None and "temperature" in said:
            return replace(self, temperature=None)
        return None

    def of_question(self, question: Question) -> dict[str, Any]:
        """Return the optional parameters of a request."""
        made: dict[str, Any] = {}
        if self.temperature is not None:
            made["temperature"] = self.temperature
        if self.max_tokens is not None:
            made[self.limit_name] = self.max_tokens
        if self.structured == "json_object":
            made["response_format"] = {"type": "json_object"}
        if self.structured == "json_schema":
            form = {"name": "answer", "strict": True, "schema": question.schema}
            made["response_format"] = {"type": "json_schema", "json_schema": form}
        return made
