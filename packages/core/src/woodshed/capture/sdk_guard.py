"""Stop model calls that bypass the adapter's hooks, instead of sending them to the author's provider."""

from __future__ import annotations

from typing import Any

from woodshed.capture.context import current_rollout
from woodshed.capture.hooks import Hook
from woodshed.capture.rollout import Rollout
from woodshed.errors import LeakError

_MODEL_ROUTES = ("/chat/completions", "/completions", "/responses")


def around_sdk_request(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Stop a model call that bypasses the framework: the bare OpenAI SDK, towards the author's own endpoint."""
    rollout = current_rollout()
    if rollout is not None and _goes_past(rollout, instance, args, kwargs):
        raise LeakError(
            f"a model call with the OpenAI SDK goes to {instance.base_url} instead of the policy of {rollout!r}. Make "
            "its client with `rollout = woodshed.current_rollout(); OpenAI(base_url=rollout.base_url, "
            "api_key=rollout.secret)`, or put it inside `with woodshed.untracked():` if it is not to be trained"
        )
    return wrapped(*args, **kwargs)


def _goes_past(rollout: Rollout, client: Any, args: Any, kwargs: Any) -> bool:
    options = args[1] if len(args) > 1 else kwargs.get("options")
    route = str(getattr(options, "url", "")).partition("?")[0]
    return route.endswith(_MODEL_ROUTES) and str(client.base_url).rstrip("/") != rollout.base_url.rstrip("/")


SDK_HOOKS = (
    Hook("openai._base_client", "SyncAPIClient.request", around_sdk_request, optional=True),
    Hook("openai._base_client", "AsyncAPIClient.request", around_sdk_request, optional=True),
)
"""Hooks that every adapter applies beside its own."""
