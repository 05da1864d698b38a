"""Why a rollout failed: its agent, the infrastructure around it, or a conversation longer than the model's context."""

from __future__ import annotations

import re

from woodshed.capture.causes import causes
from woodshed.capture.recorder import failure
from woodshed.capture.user_frames import user_line
from woodshed.errors import RolloutError, WoodshedError
from woodshed.types import Failure

_UNAVAILABLE = {
    "APIConnectionError", "InternalServerError", "RateLimitError", "ServiceUnavailableError",  # the SDKs of providers
    "TransportError", "ClientConnectionError", "MaxRetryError",  # httpx, aiohttp, urllib3
}  # fmt: skip
"""Names of error classes, their bases included, that SDKs and HTTP clients raise when a server cannot be used."""
_OVERFLOW_NAME = re.compile(r"Context(Length|Window|Overflow)")
_OVERFLOW_TEXT = re.compile(r"context[_ ](length|window)|maximum (context|model) length|max_model_len", re.IGNORECASE)


def rollout_failure(error: BaseException) -> Failure:
    """Return an exception of a rollout as data, with its cause."""
    chain = list(causes(error, suppressed=False))
    plain = failure(error).model_copy(update={"where": user_line(error)})
    if any(_is_overflow(e) for e in chain):
        return plain.model_copy(update={"cause": "overflow"})
    if any(_is_infrastructure(e) for e in chain):
        return plain.model_copy(update={"cause": "infrastructure"})
    return plain


def _is_infrastructure(error: BaseException) -> bool:
    if isinstance(error, WoodshedError):
        return not isinstance(error, RolloutError)
    names = {base.__name__ for base in type(error).__mro__}
    status = getattr(error, "status_code", None)
    is_refused = isinstance(status, int) and (status in (408, 409, 425, 429) or status >= 500)
    return isinstance(error, ConnectionError) or bool(names & _UNAVAILABLE) or is_refused


def _is_overflow(error: BaseException) -> bool:
    if any(_OVERFLOW_NAME.search(base.__name__) for base in type(error).__mro__):
        return True
    return getattr(error, "status_code", None) in (400, 413) and bool(_OVERFLOW_TEXT.search(str(error)))
