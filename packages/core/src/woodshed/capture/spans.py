"""Record a model call or a tool call in its call context, from its start to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from woodshed.capture.call_context import current_call_context, in_call_context
from woodshed.capture.own_errors import note_own_error, watched
from woodshed.capture.plain import to_text
from woodshed.capture.recorder import OpenCall, OpenTool
from woodshed.capture.rollout import Rollout
from woodshed.types import Failure


@contextmanager
def model_span(rollout: Rollout, *, author_model: str | None, agent: str | None = None) -> Iterator[OpenCall]:
    """Record one model call; send the yielded call's `call_id` in the header `CALL_ID_HEADER`.

    The call's exception is noted and passes untouched. An answer that the agent stopped reading is
    superseded, and never trained.

    Args:
        rollout: whose call it is.
        author_model: the model the author's agent named.
        agent: who makes the call; None takes the agent of the current call context.
    """
    context = current_call_context()
    call: OpenCall | None = None
    try:
        with (
            watched(rollout),
            rollout.recorder.observe_call(
                agent=agent or context.agent,
                parent_call_id=context.parent_call_id,
                author_model=author_model,
                attempt=context.scope.attempt if context.scope else 1,
            ) as call,
        ):
            if context.scope:
                context.scope.add(call)
            yield call
    except (GeneratorExit, asyncio.CancelledError):
        if call is not None:
            call.superseded = True
            call.error = Failure(kind="Aborted", message="the agent stopped reading the answer before its end")
        raise


class ToolSpan:
    """One tool call from its start to its end; a context manager that also takes the result.

    Model calls inside it know the call that asked for the tool (`parent_call_id`).
    """

    def __init__(
        self,
        rollout: Rollout,
        *,
        tool_call_id: str | None,
        name: str,
        arguments: Any,
        control_flow: tuple[type[BaseException], ...] = (),
    ) -> None:
        """Open the record. An exception of `control_flow` is the framework's way to leave a tool, and no error."""
        context = current_call_context()
        self.tool: OpenTool = rollout.recorder.open_tool(
            tool_call_id=tool_call_id, name=name, arguments=arguments, agent=context.agent
        )
        asked_by = rollout.recorder.asked_by(tool_call_id, context.agent) or context.parent_call_id
        self._control_flow = control_flow
        self._rollout = rollout
        self._context = in_call_context(context._replace(tool=self.tool, parent_call_id=asked_by))

    def __enter__(self) -> Self:
        """Make this tool part of the call context of everything inside."""
        self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note an exception, which passes untouched."""
        self._context.__exit__(kind, error, trace)
        note_own_error(self._rollout, error)
        if error is not None:
            self.tool.close(error=None if isinstance(error, self._control_flow) else error)

    def ended(self, text: str | None, *, is_error: bool = False) -> None:
        """Note what the model is told, and whether it is told of an error."""
        self.tool.close(text)
        if is_error and self.tool.error is None:
            self.tool.error = Failure(kind="ToolError", message=to_text(text or ""))
