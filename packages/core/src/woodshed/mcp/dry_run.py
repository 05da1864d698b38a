"""Whether a task can be done at all: the calls it is known to need are made once, and an error rejects it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from woodshed.errors import McpServerError
from woodshed.mcp.catalog import Catalog
from woodshed.mcp.scenario import PlannedCall, Rejected, Scenario, normal
from woodshed.mcp.session import Session, Sessions
from woodshed.mcp.tools import refuse_arguments

_AT_ONCE = 4
_SHOWN = 200


@dataclass(kw_only=True, slots=True)
class DryRun:
    """Makes each distinct call of many scenarios once; only tools that read are called."""

    sessions: Sessions
    catalog: Catalog
    _refusals: dict[str, str | None] = field(default_factory=dict)
    _tasks: set[str] = field(default_factory=set)

    async def sift(self, scenarios: Sequence[Scenario]) -> tuple[list[Scenario], list[Rejected]]:
        """Return the scenarios that can be done, without repeats, and the others with what stood in their way.

        Raises:
            McpServerError: the server is gone, which is no fault of a scenario.
        """
        await self._try_out({_key(call): call for one in scenarios for call in one.calls})
        kept: list[Scenario] = []
        rejected: list[Rejected] = []
        for one in scenarios:
            reason = next((r for call in one.calls if (r := self._refusals[_key(call)]) is not None), None)
            if reason is None and normal(one.task) in self._tasks:
                reason = "the same task was there before"
            if reason is None:
                self._tasks.add(normal(one.task))
                kept.append(one)
            else:
                rejected.append(Rejected(task=one.task, reason=reason, source=one.source))
        return kept, rejected

    def __len__(self) -> int:
        """Return how many distinct calls were looked at."""
        return len(self._refusals)

    async def _try_out(self, calls: dict[str, PlannedCall]) -> None:
        """Try every call that was not tried before, a few at once; a call that breaks its session spoils no other."""
        waiting = [(key, call) for key, call in reversed(calls.items()) if key not in self._refusals]
        for key, call in list(waiting):
            if (known := self._without_server(call)) is not None:
                self._refusals[key] = known or None
                waiting.remove((key, call))

        async def work() -> None:
            while waiting:
                async with self.sessions.open() as session:
                    while waiting and session.fault is None:
                        key, call = waiting.pop()
                        self._refusals[key] = await _refusal(session, call)

        done = await asyncio.gather(*(work() for _ in range(min(_AT_ONCE, len(waiting)))), return_exceptions=True)
        for failed in done:
            if isinstance(failed, BaseException):
                raise failed

    def _without_server(self, call: PlannedCall) -> str | None:
        """Return what is known of a call before it is made: a refusal, the empty text for none, None for nothing."""
        tool = self.catalog.tool(call.tool)
        if tool is None:
            return f"it needs the tool {call.tool!r}, which the agent does not have"
        if (refused := refuse_arguments(tool, call.arguments)) is not None:
            return f"{tool.name} refuses {json.dumps(call.arguments)}: {refused}"
        return "" if tool.destructive else None


async def _refusal(session: Session, call: PlannedCall) -> str | None:
    try:
        answer = await session.call(call.tool, call.arguments)
    except McpServerError as broken:
        return f"{call.tool} ended the session: {str(broken)[:_SHOWN]}"
    return f"{call.tool} says: {answer.text[:_SHOWN]}" if answer.is_error else None


def _key(call: PlannedCall) -> str:
    return json.dumps([call.tool, call.arguments], sort_keys=True, default=str)
