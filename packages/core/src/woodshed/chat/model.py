"""Settings of a chat model, the question sent to it and the answer it returns."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, Self
from urllib.parse import urlsplit

from woodshed.errors import ConfigError, WoodshedError
from woodshed.types import check_number

Structured = Literal["auto", "json_schema", "json_object", "none"]

ENGINE_PREFIX = "engine/"
"""`engine/NAME` means the model NAME that the engine serves."""


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A chat model at any OpenAI-compatible address, and how to call it. Subclasses give it a role."""

    role: ClassVar[str] = "chat model"
    """What error messages call it."""
    error: ClassVar[type[WoodshedError]] = WoodshedError
    """Error class raised when it gives no usable reply."""
    permanent_error: ClassVar[type[WoodshedError]] = WoodshedError
    """Error class raised when it will not reply to any other request either: a wrong key, no credit, no such model."""

    model: str
    _: KW_ONLY
    base_url: str | None = None
    """None means `OPENAI_BASE_URL` if set, else OpenAI's own address."""
    api_key: str | None = field(default=None, repr=False)
    """None means `OPENAI_API_KEY`. Never shown, logged or stored."""
    temperature: float = 0.0
    max_tokens: int | None = None
    """Longest reply in tokens, reasoning included; None leaves the limit to the server."""
    timeout_s: float | None = None
    """Longest wait for one try of one request, in seconds. None is 120, and 900 for a model that the engine serves: a
    real judge that shares a few cores with the policy takes minutes for a list of attempts."""
    max_retries: int = 4
    """Further tries after a 408, 429, 5xx, timeout or lost connection."""
    max_concurrency: int = 8
    """Requests in flight at once."""
    structured: Structured = "auto"
    """How structured output is requested; `auto` tries `json_schema` first, then what the server accepts."""
    prompt_usd_per_million: float | None = None
    """Price of a million prompt tokens. The cost is known only when both prices are set."""
    completion_usd_per_million: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        class_name = type(self).__name__
        if not isinstance(self.model, str) or not self.model.removeprefix(ENGINE_PREFIX):
            raise ConfigError(f"{class_name}.model is {self.model!r}; expected a model's name, such as 'gpt-5-mini'")
        check_number(self, "temperature", at_least=0)
        check_number(self, "max_retries", at_least=0, whole=True)
        check_number(self, "max_concurrency", at_least=1, whole=True)
        for name, low in (
            ("timeout_s", 1e-3),
            ("max_tokens", 1),
            ("prompt_usd_per_million", 0),
            ("completion_usd_per_million", 0),
        ):
            if getattr(self, name) is not None:
                check_number(self, name, at_least=low, whole=name == "max_tokens")
        if self.structured not in ("auto", "json_schema", "json_object", "none"):
            raise ConfigError(
                f"{class_name}.structured is {self.structured!r}; expected auto, json_schema, json_object or none"
            )
        if (self.prompt_usd_per_million is None) != (self.completion_usd_per_million is None):
            raise ConfigError(
                f"{class_name} has one price of two; give both prompt_ and completion_usd_per_million, or neither"
            )
        _check_url(self.base_url, class_name)

    @property
    def is_engine(self) -> bool:
        """Whether the engine serves this model."""
        return self.model.startswith(ENGINE_PREFIX)

    @property
    def longest_wait_s(self) -> float:
        """Seconds that one try of one request may take."""
        return self.timeout_s if self.timeout_s is not None else 900.0 if self.is_engine else 120.0

    @property
    def address(self) -> str | None:
        """Base URL that requests go to; None is OpenAI's own."""
        return self.base_url if self.is_engine else self.base_url or os.environ.get("OPENAI_BASE_URL") or None

    def bound(self, *, base_url: str, api_key: str) -> Self:
        """Return a copy that points to the engine at `base_url`, if this is an engine model without an address yet."""
        return replace(self, base_url=base_url, api_key=api_key) if self.is_engine and not self.base_url else self

    def key(self) -> str:
        """Return the API key to send.

        `OPENAI_API_KEY` is never sent to an engine. A server that needs no key gets a placeholder.

        Raises:
            ConfigError: an engine model has no address yet, or no key is set for OpenAI.
        """
        if self.is_engine and self.base_url is None:
            raise ConfigError(
                f"{self.role} {self.model!r} is served by the engine, but no engine is connected; a training "
                "run connects it, elsewhere use `ruler.bound(base_url=..., api_key=...)`"
            )
        key = self.api_key or (None if self.is_engine else os.environ.get("OPENAI_API_KEY"))
        if not key and self.address is None:
            raise ConfigError(
                f"{self.role} {self.model!r} needs a key and OPENAI_API_KEY is not set; set it, pass "
                f"{type(self).__name__}(api_key=...), or name another model: base_url=... for any OpenAI-compatible "
                "server, 'engine/NAME' for a served model"
            )
        return key or "none"

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the price of a reply in USD; None when the prices are not known."""
        if self.prompt_usd_per_million is None or self.completion_usd_per_million is None:
            return None
        total = prompt_tokens * self.prompt_usd_per_million + completion_tokens * self.completion_usd_per_million
        return total / 1e6


def _check_url(url: str | None, class_name: str) -> None:
    if url is None:
        return
    unusable = ConfigError(f"{class_name}.base_url is {url!r}; expected an address such as 'http://localhost:8000/v1'")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise unusable from None
    if parts.username or parts.password:
        raise ConfigError(f"{class_name}.base_url contains a user name or password; pass the secret as api_key instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise unusable


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One request to a chat model."""

    system: str
    user: str
    schema: dict[str, Any]
    refused: tuple[str, str] | None = None
    """In a repair request: the reply that was refused, and the complaint about it. None in a first request."""
    label_tokens: int | None = None
    """Set where the reply is one short label in plain text: its limit in tokens, unless the model has its own. The
    probabilities of the tokens are requested too, and the schema is for the user's own functions only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelyToken:
    """One token of a reply, and the tokens that were most likely in its place."""

    text: str
    likely: tuple[tuple[str, float], ...]
    """Pairs of a token's text and its probability, 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A chat model's reply, with its token counts and cost."""

    text: str
    is_cut: bool = False
    """True when the reply ended at a token limit."""
    is_refusal: bool = False
    """True when the model declined to answer."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    tokens: tuple[LikelyToken, ...] = ()
    """The reply's tokens with their probabilities, if they were requested and the server gives them."""


class SupportsAsk(Protocol):
    """Anything that answers a question: a chat client or the user's own function."""

    name: str

    async def ask(self, question: Question) -> Answer:
        """Return the reply.

        Raises:
            WoodshedError: there is no usable reply.
        """
