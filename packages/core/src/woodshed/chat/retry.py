"""What can go wrong between us and a chat model: what is worth another try, and what the user is told."""

from __future__ import annotations

import random

from openai import APIConnectionError, APIStatusError
from tenacity import RetryCallState

from woodshed.chat.model import ChatModel
from woodshed.errors import WoodshedError

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_draw = random.Random()  # our own, so that a seeded `random` of the user's is left alone


class UnreadableReply(Exception):
    """The server answered 200 with something that is no chat completion."""


def is_passing(error: BaseException) -> bool:
    """Return whether the same request may well succeed in a moment."""
    if isinstance(error, APIStatusError):
        no_credit = "insufficient_quota" in (error.code or "", error.type or "")
        return (error.status_code in (408, 429) and not no_credit) or error.status_code >= 500
    return isinstance(error, TimeoutError | APIConnectionError | UnreadableReply)


def wait_s(state: RetryCallState) -> float:
    """Return how long to wait before the next try: what the server asks for, else longer each time."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, APIStatusError):
        try:
            asked = float(error.response.headers.get("retry-after", ""))
        except ValueError:
            asked = -1.0
        if asked >= 0:
            return min(asked, _LONGEST_WAIT_S)
    return min(_FIRST_WAIT_S * 2.0 ** (state.attempt_number - 1), 8.0) * _draw.uniform(0.5, 1.0)


def explain(model: ChatModel, error: Exception, *, tries: int, key: str) -> WoodshedError:
    """Return the error a user can act on: which model, what it answered, what to do. It never holds the key."""
    who = f"{model.role} {model.model!r} at {model.address or 'https://api.openai.com/v1'}"
    again = f" in {tries} tries" if tries > 1 else ""
    said = _excerpt(str(error), key)
    if isinstance(error, APIStatusError):
        return model.error(f"{who} answered {error.status_code}{again}: {said}. {_step(error, model)}")
    if isinstance(error, TimeoutError):
        return model.error(
            f"{who} gave no answer within {model.timeout_s:g} s{again}; raise {type(model).__name__}(timeout_s=...)"
        )
    if isinstance(error, UnreadableReply):
        return model.error(f"{who} answered no chat completion{again}: {said}; is base_url right, up to its '/v1'?")
    cause = _excerpt(str(error.__cause__ or ""), key)
    return model.error(f"{who} could not be reached{again}: {said} {cause}".rstrip() + "; is it running there?")


def _step(error: APIStatusError, model: ChatModel) -> str:
    own = type(model).__name__
    if error.status_code in (401, 403):
        return f"Check OPENAI_API_KEY or {own}(api_key=...)"
    if error.status_code == 404:
        return "Check the model's name and base_url"
    if "insufficient_quota" in (error.code or "", error.type or ""):
        return "The account has no credit left"
    if error.status_code == 429:
        return f"Lower {own}(max_concurrency={model.max_concurrency}) or raise max_retries"
    if error.status_code >= 500:
        return "Its server failed; its log says why"
    return "Its server refuses this request as it is"


def _excerpt(text: str, key: str) -> str:
    """Return one short line of `text` without the key, which servers like to repeat."""
    shown = " ".join(text.split()).replace(key, "***") if len(key) > 4 else " ".join(text.split())
    return shown if len(shown) <= 300 else f"{shown[:297]}..."
