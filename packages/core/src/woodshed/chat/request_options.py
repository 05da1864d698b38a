"""Optional request parameters that one server accepts, learned from the requests it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from woodshed.chat.model import ChatModel, Question, Structured

_FALLBACK: dict[Structured, Structured] = {"auto": "json_object", "json_schema": "json_object", "json_object": "none"}
_TOP_LOGPROBS = 20
"""The most that OpenAI's API and vLLM give for one token."""
_FORMAT_WORDS = (
    "response_format", "json_schema", "json_object", "json_validate_failed", "failed_generation", "output_format",
    "output_config", "structured", "guided", "grammar", "schema", "too many states",
)  # fmt: skip
_REFUSED = (400, 422)
_OTHER_CAUSES = (
    "context length", "maximum context", "context window", "too long", "content_filter", "content management policy",
    "api key", "credit", "billing",
)  # fmt: skip
"""What a 400 may be about that no other options help against."""
_OTHER_PARAMETERS = ("max_completion_tokens", "temperature", *_OTHER_CAUSES)
_NOT_ABOUT_THE_REQUEST = (401, 402, 403, 408, 413, 429)


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """The optional parameters sent with a request to one server."""

    structured: Structured
    can_fall_back: bool
    """True for `structured="auto"`: after a refusal the next, less strict output format is tried."""
    temperature: float | None
    """None when the server accepts only its default, as reasoning models do."""
    max_tokens: int | None
    has_logprobs: bool = True
    """False when the server refuses to give the probabilities of tokens."""
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

    def without(
        self, status: int | None, refusal: str, *, is_permanent: bool = False, is_label: bool = False
    ) -> Self | None:
        """Return the options to try after an error; None if no other options may help.

        Servers refuse an output format in words of their own ("too many states", "invalid argument"), so a 400 that
        names no other parameter is taken for one; another status must name the format.

        Args:
            status: the answer's HTTP status; None for a 200 that holds an error in place of a completion.
            refusal: the text of the error.
            is_permanent: whether its status or code says that every request will be refused; then it is about the
                format only if it names it.
            is_label: whether the request was for one label: then it asked for probabilities, and for no output format.
        """
        text = refusal.lower()
        # OpenAI answers 403 where a model gives no probabilities: "You are not allowed to request logprobs".
        names_logprobs = "logprobs" in text and status in (*_REFUSED, 403)
        unnamed = status in _REFUSED and not is_permanent and not any(word in text for word in _OTHER_PARAMETERS)
        if is_label and self.has_logprobs and (names_logprobs or unnamed):
            return replace(self, has_logprobs=False)
        names_format = any(word in text for word in _FORMAT_WORDS) and status not in _NOT_ABOUT_THE_REQUEST
        looser = _FALLBACK.get(self.structured) if self.can_fall_back and not is_label else None
        if looser is not None and names_format:
            return replace(self, structured=looser)
        if status not in _REFUSED or is_permanent:
            return None
        if self.limit_name == "max_tokens" and "max_completion_tokens" in text:
            return replace(self, limit_name="max_completion_tokens")
        if self.temperature is not None and "temperature" in text:
            return replace(self, temperature=None)
        if looser is None or any(cause in text for cause in _OTHER_CAUSES):
            return None
        return replace(self, structured=looser)

    def parameters(self, question: Question) -> dict[str, Any]:
        """Return the optional parameters of a request, as keyword arguments of the OpenAI client."""
        parameters: dict[str, Any] = {}
        if self.temperature is not None:
            parameters["temperature"] = self.temperature
        max_tokens = question.label_tokens if self.max_tokens is None else self.max_tokens
        if max_tokens is not None:
            parameters[self.limit_name] = max_tokens
        if question.label_tokens is not None:
            return parameters | ({"logprobs": True, "top_logprobs": _TOP_LOGPROBS} if self.has_logprobs else {})
        if self.structured == "json_object":
            parameters["response_format"] = {"type": "json_object"}
        if self.structured == "json_schema":
            schema = {"name": "answer", "strict": True, "schema": question.schema}
            parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
        return parameters
