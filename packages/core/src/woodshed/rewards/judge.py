"""Who judges: an OpenAI-compatible chat model, or any async function of the request."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal, Protocol, Self
from urllib.parse import urlsplit

from woodshed.errors import ConfigError, JudgeError

Structured = Literal["auto", "json_schema", "json_object", "none"]
AskFunction = Callable[[str, str, dict[str, Any]], Awaitable[str]]
"""`async (system, user, schema) -> reply`: your own judge; `schema` is the JSON Schema of the reply."""

ENGINE_PREFIX = "engine/"
"""A judge called `engine/NAME` is the model NAME that the engine serves."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A chat model that compares the attempts of a group, at any OpenAI-compatible address.

    Example:
        `Judge("gpt-5-mini")`, `Judge("qwen3:32b", base_url="http://localhost:11434/v1")`, or `Judge("engine/judge")`
        for a model that the engine serves.
    """

    model: str
    _: KW_ONLY
    base_url: str | None = None
    """None is `OPENAI_BASE_URL`, else OpenAI's own address."""
    api_key: str | None = field(default=None, repr=False)
    """None is `OPENAI_API_KEY`. Never shown, logged or stored."""
    temperature: float = 0.0
    max_tokens: int | None = None
    """Longest reply in tokens, reasoning included; None leaves it to the judge's server."""
    timeout_s: float = 120.0
    """Longest wait for one try of one request."""
    max_retries: int = 4
    """Further tries after a 408, 429, 5xx, timeout or lost connection."""
    max_concurrency: int = 8
    """Requests in flight at once."""
    structured: Structured = "auto"
    """How the reply's form is asked for; `auto` tries `json_schema` and remembers what the server refuses."""
    prompt_usd_per_million: float | None = None
    """Price of a million prompt tokens; without both prices the cost is not known."""
    completion_usd_per_million: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not self.model or not self.model.removeprefix(ENGINE_PREFIX):
            raise ConfigError(f"Judge.model is {self.model!r}; expected a model's name, such as 'gpt-5-mini'")
        for name, low in (("timeout_s", 1e-3), ("max_retries", 0), ("max_concurrency", 1), ("temperature", 0)):
            if not getattr(self, name) >= low:
                raise ConfigError(f"Judge.{name} is {getattr(self, name)!r}; expected at least {low}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"Judge.max_tokens is {self.max_tokens!r}; expected at least 1, or None")
        if self.structured not in ("auto", "json_schema", "json_object", "none"):
            raise ConfigError(
                f"Judge.structured is {self.structured!r}; expected auto, json_schema, json_object or none"
            )
        if (self.prompt_usd_per_million is None) != (self.completion_usd_per_million is None):
            raise ConfigError(
                "Judge has one price of two; give both prompt_ and completion_usd_per_million, or neither"
            )
        _check_url(self.base_url)

    @property
    def is_engine(self) -> bool:
        """Whether the engine serves this judge."""
        return self.model.startswith(ENGINE_PREFIX)

    @property
    def address(self) -> str | None:
        """Where the judge is asked; None is OpenAI's own address."""
        return self.base_url if self.is_engine else self.base_url or os.environ.get("OPENAI_BASE_URL") or None

    def bound(self, *, base_url: str, api_key: str) -> Self:
        """Return a copy that asks the engine at `base_url` where this judge is the engine's and has no address yet."""
        return replace(self, base_url=base_url, api_key=api_key) if self.is_engine and not self.base_url else self

    def key(self) -> str:
        """Return the key that is sent.

        `OPENAI_API_KEY` is never sent to an engine. A server that asks for no key gets a placeholder.

        Raises:
            ConfigError: the judge has no address yet, or OpenAI is to be asked without a key.
        """
        if self.is_engine and self.base_url is None:
            raise ConfigError(
                f"judge {self.model!r} is served by the engine, and this one knows no engine; a training run binds it, "
                "elsewhere use `ruler.bound(base_url=..., api_key=...)`"
            )
        found = self.api_key or (None if self.is_engine else os.environ.get("OPENAI_API_KEY"))
        if not found and self.address is None:
            raise ConfigError(
                f"judge {self.model!r} needs a key and OPENAI_API_KEY is not set; set it, pass Judge(api_key=...), or "
                "name another judge: base_url=... for any OpenAI-compatible server, 'engine/NAME' for a served model"
            )
        return found or "none"

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the price of a reply, None where it is not known."""
        if self.prompt_usd_per_million is None or self.completion_usd_per_million is None:
            return None
        spent = prompt_tokens * self.prompt_usd_per_million + completion_tokens * self.completion_usd_per_million
        return spent / 1e6


def _check_url(url: str | None) -> None:
    if url is None:
        return
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ConfigError("Judge.base_url carries a user name or password; pass the secret as api_key instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"Judge.base_url is {url!r}; expected an address such as 'http://localhost:8000/v1'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One request to a judge."""

    system: str
    user: str
    schema: dict[str, Any]
    refused: tuple[str, str] | None = None
    """In a repair request: the reply that was refused, and the complaint about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a judge replied, and what it took."""

    text: str
    is_cut: bool = False
    """True where the reply ended at a token limit."""
    is_refusal: bool = False
    """True where the model said that it will not answer."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None


class Asked(Protocol):
    """Anything that can be asked a question: a chat model or a function."""

    name: str

    async def ask(self, question: Question) -> Answer:
        """Return the reply, or raise `JudgeError` where there is none."""


class FunctionJudge:
    """The user's own async function as judge, known by its qualified name; its tokens and cost are not known."""

    def __init__(self, function: AskFunction) -> None:
        self.function = function
        self.name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"

    async def ask(self, question: Question) -> Answer:
        """Return the function's reply; in a repair the complaint follows the request."""
        user = question.user
        if question.refused is not None:
            reply, complaint = question.refused
            user = f"{user}\n\nYour earlier reply was:\n{reply}\n\n{complaint}"
        try:
            coming = self.function(question.system, user, question.schema)
            text = await coming if inspect.isawaitable(coming) else coming
        except Exception as error:
            # The user's code at our boundary: whatever it raises, the group has no verdict.
            raise JudgeError(f"judge {self.name!r} raised {type(error).__name__}: {error}") from error
        if not inspect.isawaitable(coming) or not isinstance(text, str):
            raise ConfigError(
                f"judge {self.name!r} gave {type(text).__name__}; expected an async function that returns str"
            )
        return Answer(text=text)
