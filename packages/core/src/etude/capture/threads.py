"""Carry the rollout into raw threads and pools, which Python 3.11 starts with an empty context."""

from __future__ import annotations

import concurrent.futures.thread
import contextvars
from typing import Any

from etude.capture.hooks import Hook, HookSet


def _submit(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    if not args:
        return wrapped(*args, **kwargs)
    return wrapped(contextvars.copy_context().run, *args, **kwargs)


def _start(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    # A pool's worker outlives the rollout that happened to start it: its jobs bring their own context (see _submit).
    if getattr(instance, "_target", None) is concurrent.futures.thread._worker:  # type: ignore[attr-defined]
        return wrapped(*args, **kwargs)
    context, run = contextvars.copy_context(), instance.run

    def run_in_context() -> None:
        instance.__dict__.pop("run", None)
        context.run(run)

    instance.run = run_in_context
    return wrapped(*args, **kwargs)


THREAD_HOOKS = HookSet(
    (
        Hook("concurrent.futures.thread", "ThreadPoolExecutor.submit", _submit),
        Hook("threading", "Thread.start", _start),
    )
)
"""Applied while at least one rollout is bound, reverted exactly after the last."""
