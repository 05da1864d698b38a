"""Which of several attempts at the same work a call belongs to.

Two things try again: a workflow node with a `RetryConfig`, and the plugin that asks once more after an answer that is
no answer (`ReflectAndRetryModelPlugin`). A tool that failed is not one of them: the model reads of it, and its answer
stays in the conversation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from woodshed.capture import AttemptScope, OpenCall, Rollout, Steps, current_call_context, in_rollout, in_scope
from woodshed_adk._replay import call_behind


class _NodeScope(AttemptScope):
    """One run of a node, with all its attempts."""

    def __init__(self, runner: Any) -> None:
        """Begin a run as a part of the node that started it."""
        around = current_call_context().scope
        super().__init__(parent=around, agent=runner._node.name, key=runner)
        self.finished = False
        self._children: list[_NodeScope] = []
        if isinstance(around, _NodeScope):
            around._children.append(self)

    def keep_finished(self) -> None:
        """Forget the calls whose answers ADK replays to a further attempt: that does not supersede them."""
        kept = set(self._replayed())
        self._calls = [call for call in self._calls if call not in kept]

    def _replayed(self) -> Iterator[OpenCall]:
        for child in self._children:
            yield from child._calls if child.finished else child._replayed()


def _scope_of(runner: Any) -> _NodeScope | None:
    scope = current_call_context().scope
    return scope if isinstance(scope, _NodeScope) and scope.key is runner else None


@in_rollout
def around_node(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Run a node, with all its attempts, in a scope of its own."""
    scope = _NodeScope(instance)
    with in_scope(scope):
        ended = yield partial(wrapped, *args, **kwargs)
    scope.succeed()
    scope.finished = ended.error is None
    return ended


@in_rollout
def around_attempt_retry(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Notice that a node's attempt failed and that there is another."""
    again = yield partial(wrapped, *args, **kwargs)
    scope = _scope_of(instance)
    if again and scope is not None:
        # Slow to import, and already imported where a workflow was made.
        from google.adk.workflow import Workflow

        if isinstance(instance._node, Workflow):
            scope.keep_finished()
        scope.fail()
    return again


@in_rollout
def around_reset_children(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Notice that a node runs again because a node it started failed; those that ended well are replayed to it."""
    scope = _scope_of(instance)
    if scope is not None:
        scope.keep_finished()
    return wrapped(*args, **kwargs)


@in_rollout
def around_model_retry(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Notice an answer that the plugin discards to ask again."""
    instead = yield partial(wrapped, *args, **kwargs)
    call = call_behind(rollout, kwargs["llm_response"])
    if instead is not None and call is not None:
        call.superseded = True
    return instead
