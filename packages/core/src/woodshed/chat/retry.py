"""Errors of requests to a chat model: which to retry, how long to wait, and how to explain them to the user."""

from __future__ import annotations

import random

from openai import APIConnectionError, APIStatusError
from tenacity import RetryCallState

from woodshed.chat.model import ChatModel
from woodshed.errors import WoodshedError

_PERMANENT = {"insufficient_quota", "billing_not_active", "invalid_api_key", "model_not_found", "account_deactivated"}
"""Codes and types of errors that OpenAI's API and its likes give for what no repetition mends."""
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_draw = random.Random()  # our own generator, so that the user's seeded `random` is not advanced


class UnreadableReply(Exception):
    """The server answered 200 with something that is not a chat completion."""


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed if it is sent again."""
    if isinstance(error, APIStatusError):
        return (error.status_code in (408, 429) or error.status_code >= 500) and not is_permanent(error)
    return isinstance(error, TimeoutError | APIConnectionError | UnreadableReply)


def is_permanent(error: BaseException) -> bool:
    """Return whether the server will refuse every other request, too: no valid key, no credit, no such model."""
    if not isinstance(error, APIStatusError):
        return False
    names = {error.code, error.type}
    return error.status_code in (401, 402, 403, 404) or bool(names & _PERMANENT)


def wait_s(state: RetryCallState) -> float:
    """Return the seconds to wait: the server's `Retry-After`, else exponential back-off with jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, APIStatusError):
        try:
            retry_after = float(error.response.headers.get("retry-after", ""))
        except ValueError:
            retry_after = -1.0
        if retry_after >= 0:
            return min(retry_after, _LONGEST_WAIT_S)
    return min(_FIRST_WAIT_S * 2.0 ** (state.attempt_number - 1), 8.0) * _draw.uniform(0.5, 1.0)


def explain(model: ChatModel, error: Exception, *, tries: int, key: str) -> WoodshedError:
    """Return an error the user can act on: the model, its answer and the next step. It never contains the key."""
    who = f"{model.role} {model.model!r} at {model.address or 'https://api.openai.com/v1'}"
    again = f" in {tries} tries" if tries > 1 else ""
    detail = excerpt(str(error), key)
    if isinstance(error, APIStatusError):
        kind = model.permanent_error if is_permanent(error) else model.error
        return kind(f"{who} answered {error.status_code}{again}: {detail}. {_next_step(error, model)}")
    if isinstance(error, TimeoutError):
        return model.error(
            f"{who} gave no answer within {model.longest_wait_s:g} s{again}; "
            f"raise {type(model).__name__}(timeout_s=...)"
        )
    if isinstance(error, UnreadableReply):
        return model.error(f"{who} sent no chat completion{again}: {detail}; is base_url right, up to its '/v1'?")
    cause = excerpt(str(error.__cause__ or ""), key)
    return model.error(f"{who} could not be reached{again}: {detail} {cause}".rstrip() + "; is it running there?")


def _next_step(error: APIStatusError, model: ChatModel) -> str:
    class_name = type(model).__name__
    if error.status_code in (401, 403):
        return f"Check OPENAI_API_KEY or {class_name}(api_key=...)"
    if error.status_code == 404:
        return "Check the model's name and base_url"
    if "insufficient_quota" in (error.code or "", error.type or ""):
        return "The account has no credit left"
    if error.status_code == 429:
        return f"Lower {class_name}(max_concurrency={model.max_concurrency}) or raise max_retries"
    if error.status_code >= 500:
        return "The server failed; its log says why"
    return "The server refuses this request"


def excerpt(text: str, key: str) -> str:
    """Return `text` as one short line with the key masked: servers often repeat it in their errors."""
    shown = " ".join(text.split()).replace(key, "***") if len(key) > 4 else " ".join(text.split())
    return shown if len(shown) <= 300 else f"{shown[:297]}..."
