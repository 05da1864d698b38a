"""Stop model calls that bypass the adapter's hooks, instead of sending them to the author's provider."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import Any

from woodshed.capture.context import current_binding, live_rollout, refuse_ended
from woodshed.capture.hooks import Hook
from woodshed.capture.own_errors import note_own_error, watched
from woodshed.capture.rollout import Rollout
from woodshed.errors import LeakError

_MODEL_ROUTES = ("/chat/completions", "/completions", "/responses")


def around_sdk_request(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Stop a model call that bypasses the framework: the bare OpenAI SDK, towards the author's own endpoint."""
    rollout = live_rollout()
    if rollout is None or _is_own(rollout, instance):
        return wrapped(*args, **kwargs)
    if _is_model_call(args, kwargs) and not _goes_to(rollout, instance):
        with watched(rollout):
            raise LeakError(
                f"a model call with the OpenAI SDK goes to {instance.base_url} instead of the policy of {rollout!r}. "
                "Make its client with `rollout = woodshed.current_rollout(); OpenAI(base_url=rollout.base_url, "
                "api_key=rollout.secret)`, or put it inside `with woodshed.untracked():` if it is not to be trained"
            )
    return wrapped(*args, **kwargs)


def around_any_request(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Stop a call with another rollout's secret: a client that was made in one rollout and kept for the next."""
    binding = current_binding()
    if binding is not None and binding.unknown and _is_model_call(args, kwargs):
        refuse_ended(binding, "a model call with the OpenAI SDK")
    rollout = binding.rollout if binding is not None else None
    if binding is None or rollout is None or not _is_model_call(args, kwargs):
        return wrapped(*args, **kwargs)
    is_own = _is_own(rollout, instance)
    if not is_own and not _goes_to(rollout, instance):
        return wrapped(*args, **kwargs)
    refuse_ended(binding, "a model call with the OpenAI SDK")
    if not is_own and instance.api_key != rollout.secret:
        with watched(rollout):
            raise LeakError(
                f"a model call in {rollout!r} carries another rollout's secret, and would be recorded as its: the "
                "client was made in that rollout and kept. Make a client in each rollout, with "
                "`rollout = woodshed.current_rollout(); OpenAI(base_url=rollout.base_url, api_key=rollout.secret)`"
            )
    try:
        answer = wrapped(*args, **kwargs)
    except BaseException as error:
        note_own_error(rollout, error)
        raise
    return _watched(rollout, answer) if inspect.isawaitable(answer) else answer


async def _watched(rollout: Rollout, answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except BaseException as error:
        note_own_error(rollout, error)
        raise


def _is_model_call(args: Any, kwargs: Any) -> bool:
    options = args[1] if len(args) > 1 else kwargs.get("options")
    return str(getattr(options, "url", "")).partition("?")[0].endswith(_MODEL_ROUTES)


_MADE_FOR = "_woodshed_made_for"
"""Attribute of a client of woodshed's own: the address it was made for."""


def mark_own(client: Any) -> None:
    """Note that a client was made for the rollout whose secret it has: its address need not be read at every call."""
    client.__dict__[_MADE_FOR] = client.base_url


def _is_own(rollout: Rollout, client: Any) -> bool:
    """Return whether a client was made for this rollout, and goes where it went then."""
    made_for = client.__dict__.get(_MADE_FOR)
    return made_for is not None and made_for is client.base_url and bool(client.api_key == rollout.secret)


def _goes_to(rollout: Rollout, client: Any) -> bool:
    return str(client.base_url).rstrip("/") == rollout.base_url.rstrip("/")


SDK_HOOKS = (
    Hook("openai._base_client", "SyncAPIClient.request", around_sdk_request, optional=True),
    Hook("openai._base_client", "AsyncAPIClient.request", around_sdk_request, optional=True),
)
"""Hooks that every adapter applies beside its own."""

SECRET_HOOKS = (
    Hook("openai._base_client", "SyncAPIClient.request", around_any_request, optional=True),
    Hook("openai._base_client", "AsyncAPIClient.request", around_any_request, optional=True),
)
"""Hooks in place while any rollout is bound, with an adapter or without."""
