"""Record a model call or a tool call in its call context, from its start to its end."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from woodshed.capture.call_context import current_call_context, in_call_context
from woodshed.capture.own_errors import note_own_error
from woodshed.capture.plain import to_text
from woodshed.capture.recorder import OpenCall, OpenTool, failure
from woodshed.capture.rollout import Rollout
from woodshed.types import Failure


class model_span(AbstractContextManager[OpenCall]):  # a class: every recorded call enters one
    """Record one model call; send the yielded call's `call_id` in the header `CALL_ID_HEADER`.

    The call's exception is noted and passes untouched. An answer that the agent stopped reading is
    superseded, and never trained.
    """

    __slots__ = ("_agent", "_author_model", "_call", "_rollout")

    def __init__(self, rollout: Rollout, *, author_model: str | None, agent: str | None = None) -> None:
        """Say what is recorded.

        Args:
            rollout: whose call it is.
            author_model: the model the author's agent named.
            agent: who makes the call; None takes the agent of the current call context.
        """
        self._rollout, self._author_model, self._agent = rollout, author_model, agent

    def __enter__(self) -> OpenCall:
        """Open the call as a part of the current call context."""
        context = current_call_context()
        scope = context.scope
        self._call = self._rollout.recorder.open_call(
            agent=self._agent or context.agent,
            parent_call_id=context.parent_call_id,
            author_model=self._author_model,
            attempt=scope.attempt if scope else 1,
        )
        if scope:
            scope.add(self._call)
        return self._call

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note an exception, which passes untouched."""
        if error is None:
            return
        self._call.error = failure(error)
        note_own_error(self._rollout, error)
        if isinstance(error, (GeneratorExit, asyncio.CancelledError)):
            self._call.superseded = True
            self._call.error = Failure(kind="Aborted", message="the agent stopped reading the answer before its end")


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
