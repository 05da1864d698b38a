"""Errors of woodshed's own that an agent may swallow: a tool node makes text of them, a fallback goes on without them.

The policy would then learn that a tool is broken for ever. So wherever such an error passes, the rollout it passes in
is failed by it, whatever the agent does next. The engine's gateway answers in OpenAI's form: a refusal of its own is an
error of an SDK, known by the gateway's code.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from woodshed.capture.causes import causes
from woodshed.capture.rollout import Rollout
from woodshed.errors import PolicyLost, RequestRefused, WoodshedError

_GATEWAY_ERRORS: dict[object, type[WoodshedError]] = {
    "request_refused": RequestRefused,
    "request_too_large": RequestRefused,
    "policy_lost": PolicyLost,
}
"""The gateway's codes for what no agent can mend. Not those that a retry mends, nor vLLM's own (a long prompt)."""


def own_error(error: BaseException | None) -> WoodshedError | None:
    """Return woodshed's own error in an exception, its causes or its group, if there is one."""
    # A framework hides what its tool raised by `from None`, and the policy learns of it all the same.
    for cause in causes(error, suppressed=True):
        if isinstance(cause, WoodshedError):
            return cause
        if (refusal := _refusal(cause)) is not None:
            return refusal
    return None


def _refusal(error: BaseException) -> WoodshedError | None:
    """Return the gateway's refusal behind an error of the OpenAI SDK, which keeps the answer's `error` as its body."""
    body = getattr(error, "__dict__", {}).get("body")
    code = body.get("code") if isinstance(body, dict) else None
    kind = _GATEWAY_ERRORS.get(code) if isinstance(code, str) else None
    return kind(str(body.get("message") or error)) if kind is not None and isinstance(body, dict) else None


class watched(AbstractContextManager[None]):  # a class: every hooked call enters one
    """Fail the rollout by an error of woodshed's own that leaves the block, and let it pass."""

    __slots__ = ("_rollout",)

    def __init__(self, rollout: Rollout) -> None:
        """Watch for this rollout."""
        self._rollout = rollout

    def __enter__(self) -> None:
        """Nothing to do yet."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Look at what leaves the block."""
        if error is not None:
            note_own_error(self._rollout, error)


def note_own_error(rollout: Rollout, error: BaseException | None) -> None:
    """Fail the rollout by woodshed's own error in `error`, if there is one."""
    if (own := own_error(error)) is not None:
        rollout.fail(own)
